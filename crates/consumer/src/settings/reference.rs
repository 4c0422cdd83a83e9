//! The settings as `--help` shows them and as the reference documentation has them: both from the one table.

use std::fmt::Write as _;

use super::table::SETTINGS;

/// The settings section of `--help`.
#[must_use]
pub fn help_text() -> String {
    let mut text = String::from("Settings (environment variables):\n");
    for setting in SETTINGS {
        let default = match (setting.required, setting.default) {
            (true, _) => " (required)".to_owned(),
            (false, Some(default)) => format!(" [default: {default}]"),
            (false, None) => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "  {}{default}\n          {}\n", setting.name, setting.help);
    }
    text.push_str("  OTEL_*\n          Those of the OpenTelemetry specification that docs/how-to/tracing.md lists; traces are sent only when OTEL_EXPORTER_OTLP_ENDPOINT is set.\n");
    text
}

/// The settings as a Markdown table.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for setting in SETTINGS {
        let default = match (setting.required, setting.default) {
            (true, _) => "required".to_owned(),
            (false, Some(default)) => format!("`{default}`"),
            (false, None) => String::new(),
        };
        let _ = writeln!(text, "| `{}` | {default} | {} |", setting.name, setting.help);
    }
    text
}
