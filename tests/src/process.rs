//! Child processes that never outlive the process that started them.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How many bytes of a log go into an error message.
const TAIL: usize = 3000;

/// A running server with its log. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

/// A command that the kernel ends with `signal` (such as `KILL`) when this process ends.
pub fn tied(signal: &str, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg(signal).arg("--").arg(program.as_ref()).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts the command with its output appended to `log`.
    ///
    /// # Errors
    /// When the program cannot be run or the log not written.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        // A group of its own keeps the terminal's Ctrl-C from reaching servers before their owner has decided.
        command.stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn(command).with_context(|| format!("failed to start {name}"))?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; a process that has ended already is no error.
    pub fn signal(&self, signal: Signal) {
        // A pid of a child that was not waited for cannot have been given to another process.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// The exit status if the process has ended.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails with the end of the log when the process has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} has ended with {status}; its log says:\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Asks the process to end, and kills it when it does not within `grace`. Returns whether it ended by itself.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub async fn stop(&mut self, signal: Signal, grace: Duration) -> Result<bool> {
        self.signal(signal);
        let deadline = Instant::now() + grace;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                self.kill();
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// The end of the log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last few kilobytes of a text file, from the start of a line.
#[must_use]
pub fn tail(path: &Path) -> String {
    let Ok(bytes) = std::fs::read(path) else { return format!("({} cannot be read)", path.display()) };
    let cut = bytes.len().saturating_sub(TAIL);
    let text = String::from_utf8_lossy(&bytes[cut..]).into_owned();
    match text.split_once('\n') {
        Some((_, rest)) if cut > 0 => rest.to_owned(),
        _ => text,
    }
}

/// Runs a command to its end and returns what it printed on stdout.
///
/// # Errors
/// When it cannot be run or fails; the error holds what it printed on stderr.
pub async fn output(command: Command) -> Result<String> {
    let shown = show(&command);
    let mut command = tokio::process::Command::from(command);
    let result = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let result = result.with_context(|| format!("failed to run {shown}"))?;
    let printed = String::from_utf8_lossy(&result.stdout).into_owned();
    let errors = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.success(), "{shown} failed with {}:\n{printed}{errors}", result.status);
    Ok(printed)
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

type Order = (Command, Sender<io::Result<Child>>);

/// Spawns on a thread that lives as long as this process: Linux sends the parent-death signal when the *thread*
/// that forked ends, and a runtime's worker threads come and go.
fn spawn(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<Sender<Order>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = channel();
    keeper.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_ends_early_shows_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = tied("KILL", "/bin/sh");
        command.arg("-c").arg("echo no memory left; exit 3");
        let mut process = Process::start("greedy", command, &folder.path().join("log")).unwrap();
        let error = crate::wait::until("its end", Duration::from_secs(5), || {
            let ended = process.check().err();
            async { Ok(ended) }
        });
        let message = format!("{:#}", error.await.unwrap());
        assert!(message.contains("greedy") && message.contains("no memory left"), "{message}");
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_request_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = tied("KILL", "/bin/sh");
        command.arg("-c").arg("trap '' TERM; while :; do sleep 0.1; done");
        let mut process = Process::start("deaf", command, &folder.path().join("log")).unwrap();
        let by_itself = process.stop(Signal::TERM, Duration::from_millis(300)).await.unwrap();
        assert!(!by_itself || process.ended().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_failed_command_shows_what_it_printed() {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo wrong >&2; exit 1");
        assert!(format!("{:#}", output(command).await.unwrap_err()).contains("wrong"));
    }
}
