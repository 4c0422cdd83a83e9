//! Scales pipelines in simulation and compares: `cargo run --release -p autoscaler --example simulate`.
//!
//! Prints the goal table for the traces used for tuning and for those held out, and writes one picture per
//! trace into the directory given by `--out` (default: none). `--only TEXT` takes the traces whose name contains the
//! text, `--set tuning|held-out` one set, `--log` prints every change with its reason.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod lab;
mod table;

use lab::contest::{Contest, contest};
use lab::group::Protocol;
use lab::trace::Trace;

struct Options {
    set: Option<String>,
    only: Option<String>,
    log: bool,
    all: bool,
}

fn main() {
    let mut options = Options { set: None, only: None, log: false, all: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--set" => options.set = arguments.next(),
            "--only" => options.only = arguments.next(),
            "--log" => options.log = true,
            "--all" => options.all = true,
            other => {
                eprintln!("unknown option {other}");
                std::process::exit(2);
            }
        }
    }
    for (set, traces) in [("tuning", lab::sets::tuning()), ("held-out", lab::held_out::held_out())] {
        if options.set.as_deref().is_some_and(|only| only != set) {
            continue;
        }
        let chosen: Vec<Trace> = traces
            .into_iter()
            .filter(|trace| options.only.as_deref().is_none_or(|only| trace.name.contains(only)))
            .collect();
        println!("\n== {set} ==");
        table::head();
        for trace in &chosen {
            for protocol in Protocol::ALL {
                show(&contest(trace, protocol), &options);
            }
        }
    }
}

fn show(contest: &Contest, options: &Options) {
    table::row(contest);
    if options.all {
        table::baselines(contest);
    }
    if options.log {
        contest.ours.log.iter().for_each(|line| println!("        {line}"));
        println!("        drains {:?}", contest.ours.drains);
    }
}
