//! How fast the consumer is, measured beside the fastest thing that can be done with the same rows on the same server.
//!
//! Everything of one invocation happens on one Kafka and one PostgreSQL, one run after the other, each into a fresh
//! database and with a fresh group; rows are counted after each. Times are those of PostgreSQL's commits.

mod arguments;
mod bed;
mod disk;
mod floor;
mod goals;
mod growth;
mod handover;
mod latency;
mod load;
mod peer;
mod reader;
mod table;
mod throughput;
mod usage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use testbed::generator::Options;

use arguments::{Arguments, Part};
use bed::Bed;
use load::Filled;
use table::{Figures, Role, grouped};

#[tokio::main]
async fn main() -> ExitCode {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,sqlx=error".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Bench::run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Progress, beside the result on standard output.
#[allow(clippy::print_stderr)]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{text}");
}

/// A benchmark under way.
struct Bench {
    arguments: Arguments,
    bed: Bed,
    began: Instant,
    runs: Vec<Figures>,
    latency: Option<latency::Latency>,
    latency_after: Option<latency::Latency>,
    handover: Option<handover::Handover>,
    machine: String,
}

impl Bench {
    async fn run(arguments: Arguments) -> Result<()> {
        bed::require_events(arguments.events)?;
        let quiet = machine_load().await?;
        if arguments.wants(Part::Peers) {
            peer::build().await?;
        }
        let bed = Bed::start().await?;
        let mut bench = Self {
            arguments,
            bed,
            began: Instant::now(),
            runs: Vec::new(),
            latency: None,
            latency_after: None,
            handover: None,
            machine: quiet,
        };
        let result = bench.measure().await;
        // What was measured before a failure is still worth reading.
        bench.report();
        result?;
        let wrong = bench.runs.iter().filter(|run| run.wrong.is_some()).count();
        ensure!(wrong == 0, "{wrong} runs stored a wrong number of rows: see the table");
        Ok(())
    }

    fn report(&self) {
        print(&format!("\n{}\n{}", table::render(&self.runs), self.machine));
        let mut goals = goals::judge(&self.runs);
        if let Some(latency) = &self.latency {
            print(&latency.text);
            goals.push(goals::Goal::at_most("ms from produce to commit, p99", 10.0, latency.p99));
        }
        if let Some(latency) = &self.latency_after {
            print(&format!("after all other runs: {}", latency.text));
        }
        if let Some(handover) = &self.handover {
            print(&handover.text());
            goals.extend(handover.goals());
        }
        goals.iter().for_each(|goal| print(&goal.to_string()));
    }

    async fn measure(&mut self) -> Result<()> {
        let plain =
            self.fill("plain", self.arguments.events, self.options(self.arguments.partitions)).await?;
        let export = self.floor_and_consumer(&plain).await?;
        // Before the long runs: after them, some commits were seen to wait for a tenth of a second.
        if self.arguments.wants(Part::Latency) {
            self.say("latency");
            self.latency = Some(latency::measure(&mut self.bed, &self.arguments, "latency").await?);
        }
        if self.arguments.wants(Part::Handover) {
            self.say("hand-over");
            self.handover = Some(handover::measure(&mut self.bed, &self.arguments).await?);
        }
        if self.arguments.wants(Part::Variants) {
            self.variants(&plain).await?;
        }
        self.settings(&plain).await?;
        if self.arguments.wants(Part::Partitions) || self.arguments.backlog.is_some() {
            self.partitions().await?;
        }
        if self.arguments.wants(Part::Peers) {
            self.peers(&plain).await?;
        }
        if self.arguments.wants(Part::Growth) {
            self.growth(&plain, &export).await?;
        }
        if self.arguments.wants(Part::LatencyAfter) {
            self.say("latency after all that");
            let latency = latency::measure(&mut self.bed, &self.arguments, "latency-after").await?;
            self.latency_after = Some(latency);
        }
        Ok(())
    }

    /// The floor copies what the consumer has stored, so a consumer comes first; that run warms the servers and does not
    /// count. Then the floor and the consumer take turns, so that a machine that gets slower slows both.
    async fn floor_and_consumer(&mut self, plain: &Filled) -> Result<floor::Export> {
        let database = self.bed.database().await?;
        throughput::consumer(&self.bed, &database, "warming up", plain, &[]).await?;
        self.say("the servers are warm; exporting the rows for the floor");
        let export = floor::Export::take(&database).await?;
        self.bed.drop(database).await?;

        let (mut floors, mut consumers, mut without) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.arguments.rounds {
            let floor = floor::whole(&mut self.bed, &export).await?;
            floors.push(self.told(floor));
            consumers.push(self.run_once("consumer, deduplication by content", plain, &[]).await?);
            without.push(self.run_once("consumer, no rollups", plain, &[("ROLLUPS", "disabled")]).await?);
        }
        for (runs, role) in
            [(floors, Role::Floor), (consumers, Role::Consumer), (without, Role::WithoutRollups)]
        {
            self.runs.extend(table::median(runs, role));
        }
        for floor in
            [floor::halves(&mut self.bed, &export).await?, floor::keyless(&mut self.bed, &export).await?]
        {
            self.add(floor);
        }
        Ok(export)
    }

    async fn variants(&mut self, plain: &Filled) -> Result<()> {
        self.consumer("consumer, no deduplication", plain, &[("DEDUPLICATION_MODE", "none")]).await?;
        self.consumer("consumer, users counted too", plain, &[("ROLLUP_USERS", "enabled")]).await?;
        let (events, options) = (self.arguments.events, self.options(self.arguments.partitions));
        let doubled = self.fill("doubled", events, Options { duplicates: 0.05, ..options.clone() }).await?;
        self.consumer("consumer, 5 % duplicates", &doubled, &[]).await?;
        let spoilt = self.fill("spoilt", events, Options { malformed: 0.001, ..options }).await?;
        self.consumer("consumer, 0.1 % bad records", &spoilt, &[]).await
    }

    /// Settings that somebody wants to see beside the defaults, in turns with them.
    async fn settings(&mut self, plain: &Filled) -> Result<()> {
        for settings in self.arguments.with.clone() {
            let pairs: Vec<(&str, &str)> =
                settings.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let (mut defaults, mut others) = (Vec::new(), Vec::new());
            for _ in 0..self.arguments.rounds {
                defaults.push(self.run_once("consumer, beside the next", plain, &[]).await?);
                others.push(self.run_once(&format!("consumer, {}", settings.text), plain, &pairs).await?);
            }
            self.runs
                .extend([defaults, others].into_iter().filter_map(|runs| table::median(runs, Role::Other)));
        }
        Ok(())
    }

    async fn partitions(&mut self) -> Result<()> {
        let partitions = self.arguments.many_partitions;
        if self.arguments.wants(Part::Partitions) {
            let many = self.fill("many", self.arguments.events, self.options(partitions)).await?;
            self.consumer(&format!("consumer, {partitions} partitions"), &many, &[]).await?;
        }
        if let Some(backlog) = self.arguments.backlog {
            let waiting = self.fill("backlog", backlog, self.options(partitions)).await?;
            self.backlog(&waiting, partitions).await?;
        }
        Ok(())
    }

    /// The consumer and then the floor, which slows with so many rows, too.
    async fn backlog(&mut self, waiting: &Filled, partitions: i32) -> Result<()> {
        let events = grouped(waiting.counts.produced());
        let name = format!("consumer, backlog of {events} in {partitions} partitions");
        let database = self.bed.database().await?;
        let run = throughput::consumer(&self.bed, &database, &name, waiting, &[]).await?;
        self.add(Figures { role: Role::Backlog, ..run });
        let export = floor::Export::take_whole(&database).await?;
        self.bed.drop(database).await?;
        let floor = floor::whole(&mut self.bed, &export).await?;
        let name = format!("floor: one \\copy of these {events} rows");
        self.add(Figures { name, role: Role::BacklogFloor, ..floor });
        Ok(())
    }

    async fn peers(&mut self, plain: &Filled) -> Result<()> {
        for (name, unique) in [("Go consumer, no unique key", false), ("Go consumer, unique key", true)] {
            let mut runs = Vec::new();
            for _ in 0..self.arguments.rounds {
                let database = self.bed.migrated().await?;
                let run = throughput::peer(&self.bed, &database, name, plain, unique).await?;
                self.bed.drop(database).await?;
                runs.push(self.told(run));
            }
            self.runs.extend(table::median(runs, if unique { Role::Peer } else { Role::Other }));
        }
        Ok(())
    }

    /// The consumer and then the floor, into the same table.
    async fn growth(&mut self, plain: &Filled, export: &floor::Export) -> Result<()> {
        self.consumer("consumer, 0 rows in the table, again", plain, &[]).await?;
        if let Some(run) = self.runs.last_mut() {
            run.role = Role::Growth(0);
        }
        for rows in self.arguments.growth_rows.clone() {
            self.say(&format!("making a table of {} rows", grouped(rows)));
            let database = growth::prepare(&mut self.bed, rows).await?;
            let name = format!("consumer, {} rows in the table", grouped(rows));
            let run = throughput::consumer(&self.bed, &database, &name, plain, &[]).await?;
            self.add(Figures { role: Role::Growth(rows), ..run });
            let name = format!("floor: one \\copy, {} rows in the table", grouped(rows));
            let floor = floor::grown(&mut self.bed, export, database, &name).await?;
            self.add(floor);
        }
        Ok(())
    }

    async fn consumer(&mut self, name: &str, filled: &Filled, settings: &[(&str, &str)]) -> Result<()> {
        let run = self.run_once(name, filled, settings).await?;
        self.runs.push(Figures { role: Role::Variant, ..run });
        Ok(())
    }

    /// One run into a database of its own.
    async fn run_once(&mut self, name: &str, filled: &Filled, settings: &[(&str, &str)]) -> Result<Figures> {
        let database = self.bed.database().await?;
        let run = throughput::consumer(&self.bed, &database, name, filled, settings).await?;
        self.bed.drop(database).await?;
        Ok(self.told(run))
    }

    async fn fill(&mut self, topic: &str, events: u64, options: Options) -> Result<Filled> {
        let began = Instant::now();
        let filled = self.bed.fill(topic, events, options).await?;
        let (seconds, bytes) = (began.elapsed().as_secs_f64(), filled.counts.payload_bytes / events.max(1));
        self.say(&format!(
            "{} events of {bytes} bytes in topic {topic} after {seconds:.1} s",
            grouped(events)
        ));
        Ok(filled)
    }

    fn options(&self, partitions: i32) -> Options {
        let spread = Duration::from_secs(self.arguments.lateness);
        Options { partitions, spread, duplicates: 0.0, malformed: 0.0, ..Options::default() }
    }

    fn add(&mut self, run: Figures) {
        let run = self.told(run);
        self.runs.push(run);
    }

    /// Says what a run has shown as soon as it has.
    fn told(&self, run: Figures) -> Figures {
        let wrong = run.wrong.as_deref().map(|wrong| format!(", WRONG: {wrong}")).unwrap_or_default();
        self.say(&format!("{}: {} events/s{wrong}", run.name, grouped(run.rate() as u64)));
        run
    }

    fn say(&self, text: &str) {
        tell(&format!("{:6.1} s  {text}", self.began.elapsed().as_secs_f64()));
    }
}

/// How busy the machine is before anything was started: figures of a busy one mean little.
async fn machine_load() -> Result<String> {
    let (before, clock) = (usage::of_machine()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cores = std::thread::available_parallelism()?.get();
    let busy = (usage::of_machine()? - before) / clock.elapsed().as_secs_f64() / cores as f64 * 100.0;
    let warning = if busy > 10.0 { ": TOO BUSY FOR FIGURES TO MEAN MUCH" } else { "" };
    Ok(format!("{cores} cores, {busy:.0} % busy with other things before the first run{warning}"))
}
