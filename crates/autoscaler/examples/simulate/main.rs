//! Scales pipelines in simulation and compares: `cargo run --release -p autoscaler --example simulate`.
//!
//! Prints, for each set of traces, what came of every scaler on every trace, the goal table, and totals. Options:
//! `--set tuning|validation|held-out` takes one set, `--draw SEED` another draw of the held-out set's generator instead,
//! `--only TEXT` the traces whose name contains the text, `--brief`
//! leaves out the other scalers' figures, `--log` prints every change of ours with its reason, `--out DIRECTORY` writes
//! one picture per trace and protocol. Exits with 1 if a condition was reported falsely or missed.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod lab;
mod picture;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use lab::contest::{Contest, contest};
use lab::group::Protocol;
use lab::held_out::another;
use lab::trace::Trace;

#[derive(Default)]
struct Options {
    out: Option<PathBuf>,
    set: Option<String>,
    draw: Option<u64>,
    only: Option<String>,
    log: bool,
    brief: bool,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!(
                "{message}; known are --out DIRECTORY, --set tuning|validation|held-out, --draw SEED, --only TEXT, --brief, --log"
            );
            return ExitCode::from(2);
        }
    };
    let mut wrong = 0;
    let sets = options.draw.map_or_else(|| lab::sets().to_vec(), |seed| vec![("drawn", another(seed))]);
    for (set, traces) in sets {
        if options.set.as_deref().is_some_and(|only| only != set) {
            continue;
        }
        match simulate(set, &traces, &options) {
            Ok(conditions) => wrong += conditions,
            Err(error) => {
                eprintln!("failed to write a picture: {error}");
                return ExitCode::from(2);
            }
        }
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All traces of a set; gives how often a condition was reported falsely or missed.
fn simulate(set: &str, traces: &[Trace], options: &Options) -> std::io::Result<usize> {
    let mut all = Vec::new();
    for trace in traces.iter().filter(|trace| wanted(trace, options)) {
        for contest in contests(trace) {
            show(&contest, options)?;
            all.push(contest);
        }
    }
    let mut summary = table::Summary::default();
    table::head(set);
    for contest in &all {
        table::row(contest);
        summary.add(contest);
    }
    summary.print(set);
    Ok(summary.wrong_conditions())
}

/// Both protocols at once; what comes of them does not depend on that.
fn contests(trace: &Trace) -> Vec<Contest> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            Protocol::ALL.into_iter().map(|protocol| scope.spawn(move || contest(trace, protocol))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--out" => options.out = Some(PathBuf::from(value()?)),
            "--set" => options.set = Some(value()?),
            "--draw" => {
                let seed = value()?;
                options.draw =
                    Some(seed.parse().map_err(|_| format!("a seed is a whole number, and {seed} is none"))?);
            }
            "--only" => options.only = Some(value()?),
            "--log" => options.log = true,
            "--brief" => options.brief = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn wanted(trace: &Trace, options: &Options) -> bool {
    options.only.as_deref().is_none_or(|only| trace.name.contains(only))
}

fn show(contest: &Contest, options: &Options) -> std::io::Result<()> {
    if !options.brief {
        table::scalers(contest);
    }
    if options.log {
        println!("        {:?} {:?}", contest.trace.incidents, contest.trace.truths);
        let ages: Vec<String> =
            contest.ours.ages.iter().step_by(300).map(|age| format!("{age:.0}")).collect();
        println!("        oldest event every 300 s: {}", ages.join(" "));
        contest.ours.log.iter().for_each(|line| println!("        {line}"));
        contest
            .baselines
            .iter()
            .for_each(|outcome| println!("        {:<18} {}", outcome.scaler, outcome.course()));
    }
    let Some(directory) = &options.out else {
        return Ok(());
    };
    std::fs::create_dir_all(directory)?;
    let name = format!("{} {}", contest.trace.name, contest.protocol.name());
    let name: String =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    std::fs::write(directory.join(format!("{name}.svg")), picture::picture(contest))
}
