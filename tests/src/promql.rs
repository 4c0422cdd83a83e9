//! What a PromQL expression reads, and by which labels it groups. Not a parser: Prometheus itself judges expressions in other tests.

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

/// A metric that an expression reads, with what it asks of the labels.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    /// Name of the metric.
    pub name: String,
    /// Label, operator and value of each condition.
    pub matchers: Vec<(String, String, String)>,
}

impl Selector {
    /// Whether it reads a series that is written as `name{label="value", …}`. Regular expressions are taken to match.
    #[must_use]
    pub fn reads(&self, series: &str) -> bool {
        let (name, braces) = series.split_once('{').unwrap_or((series, ""));
        let labels = matchers(braces);
        let value = |label: &str| {
            let found = labels.iter().find(|(name, _, _)| name == label);
            found.map_or("", |(_, _, value)| value.as_str())
        };
        self.name == name.trim()
            && self.matchers.iter().all(|(label, operator, expected)| match operator.as_str() {
                "=" => value(label) == expected,
                "!=" => value(label) != expected,
                _ => true,
            })
    }
}

/// Names of the metrics in `expression`.
#[must_use]
pub fn metric_names(expression: &str) -> BTreeSet<String> {
    selectors(expression).into_iter().map(|selector| selector.name).collect()
}

/// What `expression` reads, in order.
#[must_use]
pub fn selectors(expression: &str) -> Vec<Selector> {
    let mut selectors = Vec::new();
    walk(expression, |word, tail| {
        let braces = tail.strip_prefix('{').map(|inside| &inside[..inside.len() - after_braces(tail).len()]);
        let matchers = braces.map(matchers).unwrap_or_default();
        selectors.push(Selector { name: word.to_owned(), matchers });
    });
    selectors
}

/// Labels that `expression` groups by, all of its `by (…)` together.
#[must_use]
pub fn grouping(expression: &str) -> BTreeSet<String> {
    let lists = expression.split(" by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',')).map(|label| label.trim().to_owned()).collect()
}

/// Calls `metric` for each name of a metric, with what follows it.
fn walk<'a>(expression: &'a str, mut metric: impl FnMut(&'a str, &'a str)) {
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
                    metric(word, tail);
                }
                tail
            }
            _ => &rest[first.len_utf8()..],
        };
    }
}

/// The conditions of what stands in braces, with or without them.
fn matchers(braces: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut rest = braces;
    while let Some((condition, value)) = rest.split_once('"') {
        let condition = condition.trim_matches(|c: char| c.is_whitespace() || c == ',' || c == '{');
        let label = condition.trim_end_matches(['=', '!', '~']);
        let operator = &condition[label.len()..];
        let (value, tail) = value.split_once('"').unwrap_or((value, ""));
        found.push((label.trim().to_owned(), operator.to_owned(), value.to_owned()));
        rest = tail;
    }
    found
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

    #[test]
    fn a_selector_reads_the_series_whose_labels_it_asks_for() {
        let expression = "sum by (a) (rate(x_total{fault=\"full}\", p!=\"\"}[5m])) unless on (a) y == 1";
        let found = selectors(expression);
        assert_eq!(found.iter().map(|selector| selector.name.as_str()).collect::<Vec<_>>(), ["x_total", "y"]);
        for (series, expected) in [
            ("x_total{fault=\"full}\", p=\"one\"}", true),
            ("x_total{p=\"one\", fault=\"full}\"}", true),
            ("x_total{fault=\"empty\", p=\"one\"}", false),
            ("x_total{fault=\"full}\"}", false),
            ("x_total_more{fault=\"full}\", p=\"one\"}", false),
        ] {
            assert_eq!(found[0].reads(series), expected, "{series}");
        }
        assert!(found[1].reads("y") && found[1].reads("y{a=\"b\"}"));
        let labels: Vec<String> = grouping("sum by (a, b) (x) / on (c) max by (d) (y)").into_iter().collect();
        assert_eq!(labels, ["a", "b", "d"]);
    }
}
