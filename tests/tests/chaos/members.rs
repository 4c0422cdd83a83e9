//! The consumers: ended, frozen, started again, and asked whether they are ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use rustix::process::Signal;
use testbed::{Consumer, http, wait};
use tokio::task::JoinHandle;

use crate::arena::Arena;

/// Longest that a consumer may say that it is ready although no database can be reached.
const UNREADY: Duration = Duration::from_secs(45);
/// Longest that a consumer may take to be ready again after everything was stored.
const READY: Duration = Duration::from_secs(90);
/// Longest that a clean stop may take: SHUTDOWN_TIMEOUT_SECONDS is 20, leaving the group may take 5 more.
const CLEAN_STOP: Duration = Duration::from_secs(60);
/// Most memory of a consumer, in bytes. Beside librdkafka's 2 MiB of prefetched records and four batches of at most 4 MiB
/// there is nothing that grows.
const MEMORY: u64 = 90 << 20;

/// A consumer that is started again whenever it was ended.
pub(crate) struct Member {
    name: &'static str,
    lives: u32,
    process: Option<Consumer>,
    /// It was frozen, or told to end: nothing can be expected of it.
    hampered: bool,
}

impl Member {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, lives: 0, process: None, hampered: false }
    }

    /// What the process is called, in `pipeline_offsets` too: each life has another name.
    pub(crate) fn instance(&self) -> String {
        format!("{}-{}", self.name, self.lives)
    }

    /// What to say of a consumer that ended although nobody ended it.
    pub(crate) async fn ended_by_itself(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        let status = process.ended(Duration::ZERO).await.ok()?;
        let (name, log) = (self.name, process.log());
        Some(format!("{name} ended by itself with {status}; its log says:\n{log}"))
    }

    fn running(&self) -> Option<&Consumer> {
        self.process.as_ref().filter(|_| !self.hampered)
    }
}

impl Arena {
    pub(crate) fn consumer_name(&self, index: usize) -> &'static str {
        self.consumers[index].name
    }

    /// Ends a consumer with SIGKILL.
    pub(crate) fn kill(&mut self, index: usize) {
        self.note_memory(index);
        let member = &mut self.consumers[index];
        if let Some(mut process) = member.process.take() {
            process.kill();
            self.journal.keep_log(member.name, process.log());
        }
    }

    /// Freezes a consumer.
    pub(crate) fn freeze(&mut self, index: usize) {
        self.hamper(index, true, Signal::STOP);
    }

    pub(crate) fn thaw(&mut self, index: usize) {
        self.hamper(index, false, Signal::CONT);
    }

    /// Asks a consumer to end.
    pub(crate) fn terminate(&mut self, index: usize) {
        self.note_memory(index);
        self.hamper(index, true, Signal::TERM);
    }

    fn hamper(&mut self, index: usize, hampered: bool, signal: Signal) {
        let member = &mut self.consumers[index];
        member.hampered = hampered;
        if let Some(process) = &member.process {
            process.signal(signal);
        }
    }

    /// Waits for the end of a consumer that was asked to end; says whether it ended well.
    pub(crate) async fn await_end(&mut self, index: usize) -> Result<bool> {
        let member = &mut self.consumers[index];
        let Some(mut process) = member.process.take() else { return Ok(true) };
        let ended = process.ended(CLEAN_STOP).await;
        self.journal.keep_log(member.name, process.log());
        let status = ended.with_context(|| format!("{} does not end after SIGTERM", member.name))?;
        Ok(status.success())
    }

    /// Starts a consumer that does not run.
    pub(crate) fn revive(&mut self, index: usize) -> Result<()> {
        let member = &mut self.consumers[index];
        if member.process.is_none() {
            member.lives += 1;
            member.hampered = false;
            member.process = Some(Consumer::start(&member.instance(), &self.options)?);
        }
        Ok(())
    }

    /// Waits until every consumer that runs is ready.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let waited = wait::until_true("all consumers are ready", READY, || async {
            for member in &self.consumers {
                if let Some(process) = member.running() {
                    let (status, reason) = process.get("/readyz").await?;
                    ensure!(status == 200, "{} says {status}: {reason}", member.name);
                }
            }
            Ok(true)
        })
        .await;
        if waited.is_err() {
            self.check_alive().await?;
        }
        waited
    }

    /// From now on no database can be reached: watches how long the consumers that run now say that they are ready.
    pub(crate) fn watch_readiness(&self) -> JoinHandle<Result<f64>> {
        let running =
            self.consumers.iter().filter_map(|member| Some((member.name, member.running()?.port())));
        let looks: Vec<_> = running.map(|(name, port)| until_unready(name, port)).collect();
        tokio::spawn(async move {
            let began = Instant::now();
            join_all(looks).await.into_iter().collect::<Result<()>>()?;
            Ok(began.elapsed().as_secs_f64())
        })
    }

    /// Waits until every consumer has said that it is unready, see [`Arena::watch_readiness`], and says so still.
    pub(crate) async fn unready(&mut self, watch: JoinHandle<Result<f64>>) -> Result<()> {
        let seconds = watch.await??;
        self.tally.unready.note(seconds);
        self.journal.note(format!("all consumers were unready after {seconds:.1} s"));
        for member in &self.consumers {
            let Some(process) = member.running() else { continue };
            let is_ready = is_ready(process.port()).await;
            ensure!(!is_ready, "{} is ready again, and there is no database", member.name);
        }
        Ok(())
    }

    /// Asks all consumers to end and expects that each does so in good order.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        for index in 0..self.consumers.len() {
            self.terminate(index);
        }
        for index in 0..self.consumers.len() {
            let well = self.await_end(index).await?;
            ensure!(well, "{} did not exit with 0 after SIGTERM", self.consumers[index].name);
        }
        Ok(())
    }

    pub(crate) fn note_memory(&mut self, index: usize) {
        let memory = self.consumers[index].process.as_ref().and_then(|process| process.memory().ok());
        self.tally.memory = self.tally.memory.max(memory.map_or(0, |(_, highest)| highest));
    }

    pub(crate) fn check_memory(&self) -> Result<()> {
        let (has, may) = (self.tally.memory >> 20, MEMORY >> 20);
        ensure!(self.tally.memory <= MEMORY, "a consumer had {has} MiB of memory, and {may} are enough");
        Ok(())
    }

    /// Keeps the logs of those that still run.
    pub(crate) fn keep_logs(&mut self) {
        for member in &self.consumers {
            if let Some(process) = &member.process {
                self.journal.keep_log(member.name, process.log());
            }
        }
    }
}

async fn until_unready(name: &'static str, port: u16) -> Result<()> {
    wait::until_true("a consumer without a database is unready", UNREADY, || async {
        ensure!(!is_ready(port).await, "{name} says that it is ready");
        Ok(true)
    })
    .await
}

/// One that does not answer is not ready either.
async fn is_ready(port: u16) -> bool {
    http::get(port, "/readyz").await.is_ok_and(|(status, _)| status == 200)
}
