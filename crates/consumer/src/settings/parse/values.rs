//! Variables as numbers, words, names and files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::SettingsError;
use crate::settings::TableName;
use crate::settings::table::SETTINGS;

/// Typed access to the variables, with the table's defaults; an empty value counts as unset.
pub(super) struct Values<'a>(pub(super) &'a BTreeMap<String, String>);

impl Values<'_> {
    pub(super) fn given(&self, name: &'static str) -> Option<String> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        self.given(name)
            .or_else(|| SETTINGS.iter().find(|setting| setting.name == name)?.default.map(str::to_owned))
    }

    pub(super) fn required(&self, name: &'static str) -> Result<String, SettingsError> {
        let help = SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.help);
        self.text(name).ok_or(SettingsError::Missing(name, help))
    }

    pub(super) fn number(&self, name: &'static str, min: u64, max: u64) -> Result<u64, SettingsError> {
        let text = self.required(name)?;
        text.parse::<u64>().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
            SettingsError::Malformed(name, format!("`{text}` is not a whole number from {min} to {max}"))
        })
    }

    pub(super) fn choice<T: Copy>(
        &self,
        name: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, SettingsError> {
        let text = self.required(name)?;
        choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)).map(|(_, value)| *value).ok_or_else(
            || {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                SettingsError::Malformed(name, format!("`{text}` is not one of {}", words.join(", ")))
            },
        )
    }

    pub(super) fn switch(&self, name: &'static str) -> Result<bool, SettingsError> {
        self.choice(name, &[("enabled", true), ("disabled", false)])
    }

    pub(super) fn one_of(
        &self,
        name: &'static str,
        words: &[&'static str],
    ) -> Result<Option<&'static str>, SettingsError> {
        if self.text(name).is_none() {
            return Ok(None);
        }
        let choices: Vec<(&str, &'static str)> = words.iter().map(|word| (*word, *word)).collect();
        self.choice(name, &choices).map(Some)
    }

    pub(super) fn table(&self, name: &'static str) -> Result<TableName, SettingsError> {
        TableName::parse(&self.required(name)?).map_err(|message| SettingsError::Malformed(name, message))
    }

    pub(super) fn file(&self, name: &'static str) -> Result<Option<PathBuf>, SettingsError> {
        let Some(path) = self.text(name).map(PathBuf::from) else { return Ok(None) };
        match std::fs::File::open(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) => Err(SettingsError::Malformed(
                name,
                format!("cannot read the file `{}`: {error}", path.display()),
            )),
        }
    }
}
