//! Narrows a PromQL expression to one pipeline. (no client required)

/// Words that are neither metrics nor functions.
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

/// The expression with `matchers` (such as `a="b"`) added to each of its selectors. It reads the words of the expression and
/// no more, which is enough for rules of this repository; tests let Prometheus' own tool judge the result.
pub(super) fn narrowed(expression: &str, matchers: &str) -> String {
    let (mut out, mut rest) = (String::new(), expression);
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '"' | '\'' => quoted(rest, first),
            '[' => rest.find(']').map_or(rest.len(), |at| at + 1),
            '{' => braces(rest),
            '0'..='9' => number(rest),
            'a'..='z' | 'A'..='Z' | '_' | ':' => word(rest),
            other => other.len_utf8(),
        };
        let (token, tail) = rest.split_at(taken);
        rest = tail;
        out.push_str(token);
        if !is_word(first) {
            continue;
        }
        let followed = rest.trim_start();
        if LABEL_LISTS.contains(&token) && followed.starts_with('(') {
            let end = rest.find(')').map_or(rest.len(), |at| at + 1);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if followed.starts_with('(') || KEYWORDS.contains(&token.to_lowercase().as_str()) {
            // A function, an aggregation or an operator.
        } else if let Some(selector) = rest.strip_prefix('{') {
            out.push_str(&format!("{{{matchers}, "));
            rest = selector;
            let end = braces(&format!("{{{rest}")) - 1;
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            out.push_str(&format!("{{{matchers}}}"));
        }
    }
    out
}

fn is_word(first: char) -> bool {
    first.is_ascii_alphabetic() || first == '_' || first == ':'
}

fn word(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len())
}

// A number with what belongs to it, such as 1e9 or 5m.
fn number(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(text.len())
}

fn quoted(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(text.len(), |at| at + 2)
}

// The length of `{…}`, which may hold braces inside of quotes.
fn braces(text: &str) -> usize {
    let mut inside = false;
    for (at, character) in text.char_indices() {
        match character {
            '"' => inside = !inside,
            '}' if !inside => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_selector_is_narrowed_and_nothing_else() {
        let table = [
            ("up == 0", "up{p=\"x\"} == 0"),
            ("up{a!=\"}\"} == 0", "up{p=\"x\", a!=\"}\"} == 0"),
            (
                "sum by (a, b) (rate(m_total{c=\"d\"}[5m])) > 1e3",
                "sum by (a, b) (rate(m_total{p=\"x\", c=\"d\"}[5m])) > 1e3",
            ),
            ("a:b:c > bool d offset 1d", "a:b:c{p=\"x\"} > bool d{p=\"x\"} offset 1d"),
            (
                "sum_over_time(clamp_min(a - b offset 1m, 0)[30m:1m]) > 3 or on (n) c",
                "sum_over_time(clamp_min(a{p=\"x\"} - b{p=\"x\"} offset 1m, 0)[30m:1m]) > 3 or on (n) c{p=\"x\"}",
            ),
            ("max(m) unless on (n) o or vector(0)", "max(m{p=\"x\"}) unless on (n) o{p=\"x\"} or vector(0)"),
        ];
        for (expression, expected) in table {
            assert_eq!(narrowed(expression, "p=\"x\""), expected, "{expression}");
        }
    }
}
