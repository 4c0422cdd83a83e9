//! One picture per trace, as SVG written by hand: arrivals, age of the oldest event, replicas, over time.

use std::fmt::Write;

use crate::lab::contest::Contest;
use crate::lab::run::Outcome;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 70.0;
const PANEL: f64 = 170.0;
const GAP: f64 = 50.0;
/// One point per so many seconds.
const STEP: usize = 30;
const COLOURS: [&str; 4] = ["#1b6fb3", "#d1495b", "#6a994e", "#999999"];

/// A line in a panel.
struct Line {
    name: String,
    colour: &'static str,
    /// One value per second.
    values: Vec<f64>,
}

/// The picture of a trace under one protocol.
pub fn picture(contest: &Contest) -> String {
    let seconds = contest.trace.seconds();
    let chosen = chosen(contest);
    let arrivals: Vec<f64> = (0..seconds)
        .map(|second| contest.trace.arrivals.iter().map(|events| events[second]).sum::<f64>())
        .collect();
    let arrivals = vec![Line { name: "arrivals".to_owned(), colour: "#444444", values: smooth(&arrivals) }];
    let lines = |part: fn(&Outcome) -> Vec<f64>| -> Vec<Line> {
        let line = |(index, outcome): (usize, &&Outcome)| Line {
            name: outcome.scaler.clone(),
            colour: COLOURS[index % COLOURS.len()],
            values: part(outcome),
        };
        chosen.iter().enumerate().map(line).collect()
    };
    let ages = lines(|outcome| outcome.ages.iter().map(|age| f64::from(*age)).collect());
    let replicas = lines(|outcome| outcome.replicas.iter().map(|count| f64::from(*count)).collect());
    let height = 3.0 * PANEL + 4.0 * GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"17\">{} ({})</text>\n",
        escape(&contest.trace.name),
        contest.protocol.name()
    );
    let target = Some(contest.trace.target);
    panel(&mut svg, 0, "events per second", &arrivals, seconds, None);
    panel(&mut svg, 1, "age of the oldest event, s (dashed: the objective)", &ages, seconds, target);
    panel(&mut svg, 2, "replicas", &replicas, seconds, None);
    svg.push_str("</svg>\n");
    svg
}

/// Ours, what many have (KEDA with a threshold of ten seconds of one replica's work), the best of the others' laws
/// and the oracle.
fn chosen(contest: &Contest) -> Vec<&Outcome> {
    let known = |name: &str| contest.baselines.iter().find(|outcome| outcome.scaler == name);
    let others = [known("KEDA 10 s"), known(crate::lab::contest::FLINK_FAST)].into_iter().flatten();
    [&contest.ours].into_iter().chain(others).chain([&contest.oracle]).collect()
}

fn panel(svg: &mut String, index: u32, title: &str, lines: &[Line], seconds: usize, mark: Option<f64>) {
    let top = GAP + f64::from(index) * (PANEL + GAP);
    let largest = lines.iter().flat_map(|line| line.values.iter().copied()).fold(1e-9, f64::max);
    let largest = largest.max(mark.unwrap_or(0.0) * 1.2) * 1.05;
    let x = |second: usize| LEFT + (WIDTH - LEFT - 20.0) * second as f64 / seconds as f64;
    let y = |value: f64| top + PANEL * (1.0 - value / largest);
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" fill=\"#444\">{}</text>", top - 6.0, escape(title));
    for part in 0..=4_u32 {
        let value = largest * f64::from(part) / 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e4e4e4\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#777\">{}</text>",
            WIDTH - 20.0,
            LEFT - 8.0,
            y(value) + 4.0,
            number(value),
            y = y(value)
        );
    }
    if let Some(mark) = mark {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#000\" stroke-dasharray=\"6 4\"/>",
            WIDTH - 20.0,
            y = y(mark)
        );
    }
    // Ours last, so that nothing covers it.
    for (order, line) in lines.iter().enumerate().rev() {
        let points: Vec<String> = (0..line.values.len())
            .step_by(STEP)
            .map(|second| format!("{:.1},{:.1}", x(second), y(line.values[second])))
            .collect();
        let wide = if order == 0 { 2.2 } else { 1.2 };
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{wide}\" points=\"{}\"/>",
            line.colour,
            points.join(" ")
        );
    }
    legend(svg, lines, top);
    for minute in (0..=seconds / 60).step_by(20) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#777\">{minute} min</text>",
            x(minute * 60).min(WIDTH - 40.0),
            top + PANEL + 16.0
        );
    }
}

fn legend(svg: &mut String, lines: &[Line], top: f64) {
    for (order, line) in lines.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{}\">{}</text>",
            WIDTH - 24.0 - 130.0 * (lines.len() - 1 - order) as f64,
            top - 6.0,
            line.colour,
            escape(&line.name)
        );
    }
}

/// Averages over a few seconds, so that noise does not hide the shape.
fn smooth(values: &[f64]) -> Vec<f64> {
    let average = |index: usize| {
        let window = &values[index..(index + STEP).min(values.len())];
        window.iter().sum::<f64>() / window.len() as f64
    };
    (0..values.len()).map(average).collect()
}

fn number(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
