//! A way to PostgreSQL on which answers can be late, or packets vanish: no reset, no end, just silence.
//!
//! Each connection is taken apart into two streams of chunks. What a chunk meets depends on the state of the way when it
//! comes to its end: it waits out its delay, waits for as long as the way is silent, or is swallowed. The operating system
//! still confirms what the program sends, as it does for a server that hangs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::port::Port;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// Chunks under way in one direction; then the sender feels that nobody takes its bytes.
const UNDER_WAY: usize = 64;
/// What PostgreSQL says when a session has begun and takes statements (`ReadyForQuery`).
const READY: &[u8] = b"Z\0\0\0\x05";

/// The state of the way.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// How long each statement is under way. Beginning a session is not slowed down.
    delay: Duration,
    /// Nothing arrives, in either direction.
    silent: bool,
    /// Connections of an earlier generation are forgotten: for them the silence never ends.
    generation: u64,
}

/// A listener on a port of its own that leads to a server. Dropping it cuts all connections.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    way: watch::Sender<Way>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A way to the server at `port` of this machine, without delay.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(server: u16) -> Result<Self> {
        let port = Port::reserve()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).await;
        let listener = listener.with_context(|| format!("failed to listen on port {}", port.number()))?;
        let (way, watched) = watch::channel(Way { delay: Duration::ZERO, silent: false, generation: 0 });
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
        let accepting = tokio::spawn(accept(listener, server, watched));
        Ok(Self { port, way, accepting })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// From now on each statement takes so long to arrive.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }

    /// From now on nothing arrives, in either direction, on old connections and new ones alike.
    pub fn silence(&self) {
        self.way.send_modify(|way| way.silent = true);
    }

    /// The silence is over, and what was held up arrives.
    pub fn resume(&self) {
        self.way.send_modify(|way| way.silent = false);
    }

    /// The silence is over for new connections. Those that are open now stay as they are, for ever, and neither side is
    /// told: as where a firewall or an address translation has forgotten them.
    pub fn forget(&self) {
        self.way.send_modify(|way| {
            way.silent = false;
            way.generation += 1;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, way: watch::Receiver<Way>) {
    // Dropped with this task, and so are the connections.
    let mut connections = JoinSet::new();
    loop {
        // Out of file descriptors, or a client that has gone: the next one may come through.
        if let Ok((client, _)) = listener.accept().await {
            let link = Link { generation: way.borrow().generation, way: way.clone(), begun: Arc::default() };
            connections.spawn(serve(client, server, link));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One connection's view of the way.
#[derive(Clone)]
struct Link {
    generation: u64,
    way: watch::Receiver<Way>,
    /// Whether the session takes statements.
    begun: Arc<AtomicBool>,
}

impl Link {
    /// Waits until chunks arrive; `false` when they never will.
    async fn open(&mut self) -> bool {
        let generation = self.generation;
        let is_decided = |way: &Way| way.generation != generation || !way.silent;
        let decided = self.way.wait_for(is_decided).await;
        decided.is_ok_and(|way| way.generation == generation)
    }

    fn delay(&self) -> Duration {
        if self.begun.load(Ordering::Relaxed) { self.way.borrow().delay } else { Duration::ZERO }
    }
}

/// Passes a connection on until the client is gone.
async fn serve(client: TcpStream, server: SocketAddr, mut link: Link) {
    let _ = client.set_nodelay(true);
    if !link.open().await {
        return swallow(client).await;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        // A server that is away: the client's connection is reset.
        let _ = client.set_zero_linger();
        return;
    };
    let (from_client, to_client) = client.into_split();
    let _ = server.set_nodelay(true);
    let (from_server, to_server) = server.into_split();
    let down = async {
        pass(from_server, to_client, link.clone(), Direction::Down).await;
        // The client may take its time to see that the server is gone.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = pass(from_client, to_server, link.clone(), Direction::Up) => {}
        () = down => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Towards the server.
    Up,
    Down,
}

/// Passes chunks on, in order, until the source ends; its end arrives like a chunk.
async fn pass(source: OwnedReadHalf, target: OwnedWriteHalf, link: Link, direction: Direction) {
    let (sender, receiver) = mpsc::channel(UNDER_WAY);
    tokio::join!(take(source, sender, &link, direction), give(target, receiver, link.clone()));
}

async fn take(
    mut source: OwnedReadHalf,
    chunks: mpsc::Sender<(Instant, Vec<u8>)>,
    link: &Link,
    direction: Direction,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = source.read(&mut buffer).await {
        let chunk = buffer[..length].to_vec();
        let delay = if direction == Direction::Up { link.delay() } else { Duration::ZERO };
        if direction == Direction::Down && chunk.windows(READY.len()).any(|window| window == READY) {
            link.begun.store(true, Ordering::Relaxed);
        }
        if chunks.send((Instant::now() + delay, chunk)).await.is_err() {
            return;
        }
    }
}

async fn give(mut target: OwnedWriteHalf, mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>, mut link: Link) {
    while let Some((due, chunk)) = chunks.recv().await {
        tokio::time::sleep_until(due).await;
        if !link.open().await {
            while chunks.recv().await.is_some() {}
            break;
        }
        if target.write_all(&chunk).await.is_err() {
            return;
        }
    }
    if link.open().await {
        let _ = target.shutdown().await;
    } else {
        // Dropping it would tell the other side.
        target.forget();
    }
}

async fn swallow(mut source: TcpStream) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(1..) = source.read(&mut buffer).await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    /// So long without an answer counts as silence.
    const SILENCE: Duration = Duration::from_millis(200);

    /// A server that says it is ready and then repeats what it hears, and the way to it.
    async fn echo() -> (Port, Proxy) {
        let port = Port::reserve().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    stream.write_all(b"Z\0\0\0\x05I").await.unwrap();
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let proxy = Proxy::start(port.number()).await.unwrap();
        (port, proxy)
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
    }

    async fn begun(proxy: &Proxy) -> TcpStream {
        let mut stream = connect(proxy).await;
        let mut ready = [0; 6];
        tokio::time::timeout(SOON, stream.read_exact(&mut ready)).await.unwrap().unwrap();
        stream
    }

    async fn answer(stream: &mut TcpStream, limit: Duration) -> Option<u8> {
        tokio::time::timeout(limit, stream.read_u8()).await.ok().and_then(Result::ok)
    }

    #[tokio::test]
    async fn statements_are_late_and_keep_their_order() {
        let (_server, proxy) = echo().await;
        let mut stream = begun(&proxy).await;
        proxy.delay(SILENCE);
        let sent = Instant::now();
        for byte in [1, 2] {
            stream.write_u8(byte).await.unwrap();
        }
        assert_eq!(answer(&mut stream, SOON).await, Some(1));
        assert!(sent.elapsed() >= SILENCE);
        assert_eq!(answer(&mut stream, SOON).await, Some(2));
    }

    #[tokio::test]
    async fn what_is_sent_into_a_silence_arrives_after_it() {
        let (_server, proxy) = echo().await;
        let mut old = begun(&proxy).await;
        proxy.silence();
        let mut new = connect(&proxy).await;
        old.write_u8(7).await.unwrap();
        assert_eq!(answer(&mut old, SILENCE).await, None);
        assert_eq!(answer(&mut new, SILENCE).await, None);
        proxy.resume();
        assert_eq!(answer(&mut old, SOON).await, Some(7));
        assert_eq!(answer(&mut new, SOON).await, Some(b'Z'));
    }

    #[tokio::test]
    async fn a_forgotten_connection_stays_silent_and_open_and_new_ones_work() {
        let (_server, proxy) = echo().await;
        let mut old = begun(&proxy).await;
        proxy.silence();
        old.write_u8(7).await.unwrap();
        proxy.forget();
        drop(begun(&proxy).await);
        let mut byte = [0];
        let heard = tokio::time::timeout(SILENCE, old.read(&mut byte)).await;
        assert!(heard.is_err(), "neither an answer nor an end: {heard:?}");
    }
}
