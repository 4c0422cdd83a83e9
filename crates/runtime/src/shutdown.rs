//! How a process is asked to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a stop that was not clean: 128 + SIGINT, as shells count.
const EXIT_INTERRUPTED: i32 = 130;

/// Returns a token that SIGTERM or SIGINT cancels. A second signal ends the process at once with code 130, so that a
/// person is never locked out by a stop that hangs. Needs a running Tokio runtime.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn on_termination_signal() -> io::Result<CancellationToken> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "Stopping");
        cancelled.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "Second signal: ending at once, without a clean stop");
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
