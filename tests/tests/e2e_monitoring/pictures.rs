//! What the dashboards show of real data: a page that lists every panel with its queries and their answers, and plots of some
//! of the same queries. `make pictures` runs it; Grafana itself is in no registry of programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Column, Row};
use testbed::dashboards::{Dashboard, Query, Ranges, list, queries_within, repository};
use testbed::generator::Options;
use testbed::prometheus::Series;
use testbed::{Prometheus, cache, process};

use crate::stack;
use crate::world::World;

const EVENTS: u64 = 150_000;
const RATE: f64 = 1_500.0;
/// Of consumers, which are scraped every fifteen seconds; the range is as long as the load.
const RANGES: Ranges = Ranges { rate_interval: "1m", range: "5m", ..Ranges::DEFAULT };
/// Seconds that the plots show.
const SHOWN: i64 = 180;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "draws pictures: make pictures"]
async fn pictures_of_the_dashboards() -> Result<()> {
    gnuplot()?;
    let world = World::start().await?;
    world.install().await?;
    world.apply_pipeline().await?;
    stack::install(&world).await?;
    world.switch_monitoring_on().await?;
    let prometheus = stack::prometheus(&world).await?;
    crate::checks::every_consumer_is_scraped_once(&world, &prometheus).await?;
    // As the demo's events, over the seven days that the dashboards show at first.
    let options = Options { partitions: 4, spread: Duration::from_secs(7 * 24 * 3600), ..Options::default() };
    world.produce_all(options, EVENTS, Some(RATE)).await?;
    crate::checks::the_figures_are_those_of_the_table(&world, &prometheus, EVENTS).await?;
    let mut page = HEAD.replace("{rows}", &world.rows().await?.to_string());
    for dashboard in Dashboard::all()? {
        let title = dashboard.json["title"].as_str().unwrap_or_default();
        write!(page, "\n## {title}\n\n![Plots of its queries](pictures/{}.svg)\n\n", dashboard.name)?;
        page.push_str("| panel | query | what it showed |\n|---|---|---|\n");
        let mut plots = Vec::new();
        for panel in dashboard.panels() {
            let title = panel["title"].as_str().unwrap_or_default();
            let mut answers = Vec::new();
            for (query, target) in queries_within(panel, RANGES).iter().zip(list(&panel["targets"])) {
                let answer = answer(&world, &prometheus, query, target).await.context(title.to_owned())?;
                let text = target["rawSql"].as_str().or(target["expr"].as_str()).unwrap_or_default();
                writeln!(page, "| {title} | `{}` | {} |", text.replace('|', "\\|"), answer.summary())?;
                answers.push(answer);
            }
            plots.extend(Plot::of(panel, answers));
        }
        draw(&dashboard.name, &plots).await?;
    }
    std::fs::write(repository().join("docs/dashboards.md"), page).context("failed to write the page")
}

const HEAD: &str = "# What the dashboards show

Every panel with its query and what the query answered, on a real cluster: the events of `make demo` (150,000 at 1,500 each second,
some twice, some broken; {rows} rows in the end, with those of the checks), dated over seven days, two consumers, Prometheus run by
Prometheus Operator. `make pictures` makes this page and its pictures anew. The pictures are plots of these queries, not
Grafana's own: Grafana comes from no package registry. Figures differ from run to run.
";

/// What a query answered.
enum Answer {
    Now(Vec<(Value, f64)>),
    Lines(Vec<Series>),
    Rows { columns: Vec<String>, rows: Vec<Vec<String>> },
}

async fn answer(world: &World, prometheus: &Prometheus, query: &Query, target: &Value) -> Result<Answer> {
    Ok(match query {
        Query::Metrics { expression, instant: true } => Answer::Now(prometheus.query(expression).await?),
        Query::Metrics { expression, .. } => {
            let mut lines = prometheus.query_range(expression, SHOWN, 5).await?;
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for (labels, _) in &mut lines {
                *labels = Value::String(named(legend, labels));
            }
            Answer::Lines(lines)
        }
        Query::Rows { sql, .. } => {
            // As JSON too, whatever the types: PostgreSQL knows best how to write them.
            let sql = format!("SELECT answer.*, to_jsonb(answer) AS whole FROM ({sql}) AS answer");
            let found = sqlx::query(AssertSqlSafe(sql)).fetch_all(&world.database).await?;
            let names = found.first().map(Row::columns).unwrap_or_default().iter();
            let mut columns: Vec<String> = names.map(|column| column.name().to_owned()).collect();
            columns.pop();
            let cell = |row: &Value, name: &String| {
                row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned)
            };
            let rows = found.iter().map(|row| {
                let whole: Value = row.try_get("whole")?;
                Ok(columns.iter().map(|name| cell(&whole, name)).collect())
            });
            let rows = rows.collect::<Result<Vec<Vec<String>>>>()?;
            Answer::Rows { columns, rows }
        }
    })
}

/// The legend of a series: a template with labels in double braces.
fn named(legend: &str, labels: &Value) -> String {
    let mut text = legend.to_owned();
    for (name, value) in labels.as_object().into_iter().flatten() {
        text = text.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or_default());
    }
    if text.contains("{{") { labels.to_string() } else { text }
}

impl Answer {
    fn summary(&self) -> String {
        match self {
            Self::Now(values) if values.len() == 1 => short(values[0].1),
            Self::Now(values) => format!(
                "{} values, the largest {}",
                values.len(),
                short(largest(values.iter().map(|value| value.1)))
            ),
            Self::Lines(lines) => {
                let values = || lines.iter().flat_map(|line| line.1.iter().map(|point| point.1));
                let (most, least) = (largest(values()), -largest(values().map(|value| -value)));
                let names: Vec<_> = lines
                    .iter()
                    .filter_map(|line| line.0.as_str())
                    .filter(|name| !name.is_empty())
                    .take(8)
                    .collect();
                let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
                format!(
                    "{} line{}{names}, from {} to {}",
                    lines.len(),
                    plural(lines.len()),
                    short(least),
                    short(most)
                )
            }
            Self::Rows { columns, rows } => {
                let first = rows.first().map(|row| {
                    columns
                        .iter()
                        .zip(row)
                        .map(|(name, cell)| format!("{name} {cell}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                });
                format!("{} row{}, the first: {}", rows.len(), plural(rows.len()), first.unwrap_or_default())
            }
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.filter(|value| value.is_finite()).fold(f64::NEG_INFINITY, f64::max)
}

/// Three significant digits.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = (2 - value.abs().log10().floor() as i32).clamp(0, 9);
    format!("{value:.*}", digits.unsigned_abs() as usize)
}

/// One picture in a picture: gnuplot's commands.
struct Plot(String);

impl Plot {
    /// A plot of a panel, if it is of a kind that shows more than one figure.
    fn of(panel: &Value, answers: Vec<Answer>) -> Option<Self> {
        let title = panel["title"].as_str().unwrap_or_default();
        let kind = panel["type"].as_str().unwrap_or_default();
        let drawn = match kind {
            "timeseries" => lines(answers, &Scale::of(panel)),
            "heatmap" => heatmap(answers),
            "barchart" | "piechart" => bars(answers),
            _ => None,
        }?;
        Some(Self(format!(
            "reset\nset border 3\nset tics nomirror\nunset mxtics\nset title {}\n{drawn}\n",
            quoted(title)
        )))
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace(['"', '\\', '{', '}', '_', '@', '^', '&'], " "))
}

/// A name and points of time, in seconds since 1970, and value.
type Line = (String, Vec<(f64, f64)>);

/// How a panel writes its values.
struct Scale {
    label: &'static str,
    factor: f64,
    /// Each value is drawn as its share of all values of the same moment.
    shares: bool,
}

impl Scale {
    /// By the panel's unit, in Grafana's names of units.
    fn of(panel: &Value) -> Self {
        let defaults = &panel["fieldConfig"]["defaults"];
        let shares = defaults["custom"]["stacking"]["mode"] == "percent";
        let (label, factor) = match defaults["unit"].as_str().unwrap_or_default() {
            _ if shares => ("per cent", 100.0),
            "percentunit" => ("per cent", 100.0),
            "eps" => ("events per second", 1.0),
            "ops" => ("per second", 1.0),
            "s" => ("seconds", 1.0),
            "bytes" => ("MiB", 1.0 / f64::from(1 << 20)),
            _ => ("", 1.0),
        };
        Self { label, factor, shares }
    }

    fn apply(&self, lines: &mut [Line]) {
        let mut sums: BTreeMap<i64, f64> = BTreeMap::new();
        for (time, value) in lines.iter().flat_map(|line| &line.1) {
            *sums.entry(*time as i64).or_default() += value;
        }
        for (time, value) in lines.iter_mut().flat_map(|line| &mut line.1) {
            let whole = if self.shares { sums[&(*time as i64)] } else { 1.0 };
            *value *= self.factor / whole;
        }
    }
}

fn lines(answers: Vec<Answer>, scale: &Scale) -> Option<String> {
    let mut series: Vec<Line> = Vec::new();
    for answer in answers {
        match answer {
            Answer::Lines(lines) => series.extend(
                lines
                    .into_iter()
                    .map(|(name, points)| (name.as_str().unwrap_or_default().to_owned(), points)),
            ),
            Answer::Rows { columns, rows } if columns.len() <= 3 => {
                rows_as_lines(&columns, &rows, &mut series)?;
            }
            _ => return None,
        }
    }
    series.retain(|(_, points)| !points.is_empty());
    scale.apply(&mut series);
    let (mut data, mut parts) = (String::new(), Vec::new());
    for (number, (name, points)) in series.iter().enumerate().take(10) {
        let points: String = points.iter().map(|(time, value)| format!("{time} {value}\n")).collect();
        write!(data, "$data{number} << EOD\n{points}EOD\n").ok()?;
        parts.push(format!("$data{number} using 1:2 with lines lw 1.5 {}", titled(name)));
    }
    let span = series.iter().flat_map(|(_, points)| points.iter().map(|point| point.0));
    let days = largest(span.clone()) + largest(span.map(|time| -time)) > 86_400.0;
    let (format, step) = if days { ("%d %b", 86_400) } else { ("%H:%M", 60) };
    (!parts.is_empty()).then(|| {
        format!("{data}set xdata time\nset timefmt '%s'\nset format x '{format}'\nset xtics {step}\nset yrange [0:*]\nset ylabel {}\nset key {}\nplot {}", quoted(scale.label), place_of_names(&series), parts.join(", "))
    })
}

/// What `or vector(0)` adds has no name.
fn titled(name: &str) -> String {
    if name.is_empty() || name == "{}" { "notitle".to_owned() } else { format!("title {}", quoted(name)) }
}

/// Beside the lines, unless names are so long that no room would be left for these.
fn place_of_names(lines: &[Line]) -> &'static str {
    if lines.iter().any(|(name, _)| name.len() > 24) { "below" } else { "outside right" }
}

/// Grafana's own way: a column of time, one of names if there are three, one of values.
fn rows_as_lines(columns: &[String], rows: &[Vec<String>], series: &mut Vec<Line>) -> Option<()> {
    for row in rows {
        let name = if columns.len() == 3 { row[1].clone() } else { columns[1].clone() };
        let point = (seconds(&row[0])?, row.last()?.parse().ok()?);
        match series.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push(point),
            None => series.push((name, vec![point])),
        }
    }
    Some(())
}

/// A moment as seconds, or as PostgreSQL writes it.
fn seconds(text: &str) -> Option<f64> {
    text.parse().ok().or_else(|| Some(chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp() as f64))
}

fn heatmap(answers: Vec<Answer>) -> Option<String> {
    let Some(Answer::Rows { rows, .. }) = answers.into_iter().next() else { return None };
    let mut data = String::new();
    for row in &rows {
        writeln!(data, "{} {} {}", seconds(&row[0])? as i64 / 86_400, row[1].parse::<i64>().ok()?, row[2])
            .ok()?;
    }
    let first = rows.iter().filter_map(|row| seconds(&row[0])).fold(f64::INFINITY, f64::min) as i64 / 86_400;
    let day = |day: i64| {
        let date = chrono::DateTime::from_timestamp(day * 86_400, 0).unwrap_or_default();
        format!("'{}' {day}", date.format("%d %b"))
    };
    let days: Vec<_> = (first..first + 8).map(day).collect();
    Some(format!(
        "$cells << EOD\n{data}EOD\nset palette defined (0 '#f7fbff', 1 '#08306b')\nset cbrange [0:*]\nset ylabel 'hour of day (UTC)'\nset yrange [-0.5:23.5]\nset xtics ({})\nunset key\nplot $cells using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3 with boxxyerror lc palette fillstyle solid noborder",
        days.join(", ")
    ))
}

fn bars(answers: Vec<Answer>) -> Option<String> {
    let Some(Answer::Rows { rows, .. }) = answers.into_iter().next() else { return None };
    let data: String = rows
        .iter()
        .map(|row| format!("{} {}\n", quoted(&row[0]), row.last().map_or("0", String::as_str)))
        .collect();
    Some(format!(
        "$bars << EOD\n{data}EOD\nset style fill solid 0.7\nset boxwidth 0.8\nset yrange [0:*]\nset ylabel 'events'\nset xtics rotate by -40\nunset key\nplot $bars using 2:xtic(1) with boxes lc rgb '#3274d9'"
    ))
}

/// Two plots beside each other, as many rows as it takes.
async fn draw(name: &str, plots: &[Plot]) -> Result<()> {
    let folder = repository().join("docs/pictures");
    std::fs::create_dir_all(&folder)?;
    let target: PathBuf = folder.join(format!("{name}.svg"));
    let rows = plots.len().div_ceil(2);
    let mut script = format!(
        "set terminal svg size 1200,{} font 'sans,11' background 'white'\nset output '{}'\nset multiplot layout {rows},2\n",
        rows * 260,
        target.display()
    );
    script.extend(plots.iter().map(|plot| plot.0.as_str()));
    script.push_str("unset multiplot\n");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), script)?;
    let mut command = Command::new(gnuplot()?);
    command.arg(file.path());
    process::output(command).await?;
    let drawn = std::fs::read_to_string(&target)?;
    std::fs::write(&target, without_defaults(&drawn)).context("failed to write a picture")
}

/// A picture without what says nothing: attributes that have their default values, and indentation.
fn without_defaults(picture: &str) -> String {
    let mut picture = picture.to_owned();
    for default in [
        " stroke=\"currentColor\"",
        " stroke-linecap=\"butt\"",
        " stroke-linejoin=\"miter\"",
        " stroke-width=\"1.00\"",
    ] {
        picture = picture.replace(default, "");
    }
    picture.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

fn gnuplot() -> Result<PathBuf> {
    cache::program("gnuplot").context("pictures are drawn by gnuplot; as root: apt-get install gnuplot-nox")
}
