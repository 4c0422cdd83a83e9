//! Scales pipelines in simulation and compares: `cargo run --release -p autoscaler --example simulate`.
//!
//! Prints the goal table for the traces used for tuning and for those held out. Options: `--out DIRECTORY` writes
//! one picture per trace and protocol; `--set tuning|held-out` takes one set, `--only TEXT` the traces whose name
//! contains the text; `--all` prints every scaler, `--log` every change of ours with its reason. Exits with 1 if a
//! condition was reported falsely, so that a script notices.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod lab;
mod picture;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use lab::contest::{Contest, contest};
use lab::group::Protocol;
use lab::trace::Trace;

#[derive(Default)]
struct Options {
    out: Option<PathBuf>,
    set: Option<String>,
    only: Option<String>,
    log: bool,
    all: bool,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!(
                "{message}; known are --out DIRECTORY, --set tuning|held-out, --only TEXT, --all, --log"
            );
            return ExitCode::from(2);
        }
    };
    let mut summary = table::Summary::default();
    for (set, traces) in [("tuning", lab::sets::tuning()), ("held-out", lab::held_out::held_out())] {
        if options.set.as_deref().is_some_and(|only| only != set) {
            continue;
        }
        table::head(set);
        for trace in traces.iter().filter(|trace| wanted(trace, &options)) {
            for contest in contests(trace) {
                if let Err(error) = show(&contest, &options) {
                    eprintln!("failed to write the picture of {}: {error}", trace.name);
                    return ExitCode::FAILURE;
                }
                summary.add(&contest);
            }
        }
    }
    summary.print();
    if summary.false_conditions() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Both protocols at once; what comes of them does not depend on that.
fn contests(trace: &Trace) -> Vec<Contest> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            Protocol::ALL.into_iter().map(|protocol| scope.spawn(move || contest(trace, protocol))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--out" => options.out = Some(PathBuf::from(value()?)),
            "--set" => options.set = Some(value()?),
            "--only" => options.only = Some(value()?),
            "--log" => options.log = true,
            "--all" => options.all = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn wanted(trace: &Trace, options: &Options) -> bool {
    options.only.as_deref().is_none_or(|only| trace.name.contains(only))
}

fn show(contest: &Contest, options: &Options) -> std::io::Result<()> {
    table::row(contest);
    if options.all {
        table::baselines(contest);
    }
    if options.log {
        contest.ours.log.iter().for_each(|line| println!("        {line}"));
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
