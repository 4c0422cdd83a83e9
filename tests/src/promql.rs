//! Which metrics a PromQL expression reads. Not a parser: Prometheus itself judges expressions in other tests.

use std::collections::BTreeSet;

/// Words that may stand before something other than a parenthesis and are no metrics.
const KEYWORDS: [&str; 25] = [
    "and",
    "or",
    "unless",
    "offset",
    "bool",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "sum",
    "avg",
    "max",
    "min",
    "count",
    "topk",
    "bottomk",
    "quantile",
    "stddev",
    "inf",
    "nan",
    "group",
    "count_values",
    "atan2",
];
/// Words after which a list of labels follows.
const LABEL_LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Names of the metrics in `expression`.
#[must_use]
pub fn metric_names(expression: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '"' | '\'' => after(&rest[1..], first),
            '{' => after_braces(rest),
            '[' => after(rest, ']'),
            // A number with what belongs to it, such as 1e9 or 5m.
            '0'..='9' => rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.'),
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
                    .unwrap_or(rest.len());
                let (word, mut tail) = rest.split_at(end);
                let followed = tail.trim_start();
                if LABEL_LISTS.contains(&word) && followed.starts_with('(') {
                    tail = after(followed, ')');
                } else if !followed.starts_with('(') && !KEYWORDS.contains(&word.to_lowercase().as_str()) {
                    names.insert(word.to_owned());
                }
                tail
            }
            _ => &rest[first.len_utf8()..],
        };
    }
    names
}

fn after(text: &str, end: char) -> &str {
    text.find(end).map_or("", |at| &text[at + end.len_utf8()..])
}

/// What follows a `{…}`, which may hold braces inside of quotes.
fn after_braces(text: &str) -> &str {
    let mut quoted = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '}' if !quoted => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_told_from_functions_labels_and_numbers() {
        let cases = [
            ("up == 0", "up"),
            ("sum by (a, b) (rate(x_total{c=\"d}e\", f=~\".+\"}[5m])) > 1e3", "x_total"),
            ("max without (pod) (a:b:c) or vector(0)", "a:b:c"),
            ("p * on (instance) group_left (v) q offset 1d", "p q"),
            ("histogram_quantile(0.99, sum by (le) (rate(s_bucket[$__rate_interval]))) >= 0", "s_bucket"),
            ("avg_over_time(r[1h]) > 0.144 and x > bool y", "r x y"),
        ];
        for (expression, expected) in cases {
            let names: Vec<String> = metric_names(expression).into_iter().collect();
            assert_eq!(names.join(" "), expected, "{expression}");
        }
    }
}
