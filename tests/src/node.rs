//! A machine within this machine: namespaces of processes, mounts and network that hold one Kubernetes node.
//!
//! Everything a node makes (pods, their file systems, iptables rules, bridges) lives in these namespaces and ends
//! with their first process, which in turn ends when the pipe to this process closes. So nothing is left behind, not
//! even after a crash, and several nodes do not see each other's rules or ports.

mod address;
mod cgroup;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::process::{self, Process};
use crate::run::Run;
use crate::{cache, lock, wait};
pub use address::Addresses;
pub(crate) use cgroup::remove as remove_cgroups;

/// The namespaces, the wire to them, and a folder. Dropping ends every process in them.
#[derive(Debug)]
pub struct Node {
    addresses: Addresses,
    init: Process,
    run: Run,
    _number: File,
}

impl Node {
    /// Creates the namespaces and connects them.
    ///
    /// # Errors
    /// When this process is not root or may not create namespaces.
    pub async fn start() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "a Kubernetes node needs root; run the tests as root");
        let run = Run::new("node")?;
        let (addresses, number) = take_number()?;
        cgroup::create(run.path())?;
        let init = start_init(run.path())?;
        let node = Self { addresses, init, run, _number: number };
        node.await_init().await?;
        cgroup::leave_root(node.run.path(), node.init.id())?;
        node.connect().await?;
        Ok(node)
    }

    /// The addresses of this node's networks.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The address at which pods reach servers that run on this machine.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        self.addresses.host()
    }

    /// A folder for what runs in the node; the same path inside and outside.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.run.path()
    }

    /// What other processes need to run commands inside the node.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        Entrance { process: self.init.id() }
    }

    /// A command that runs inside the node.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.entrance().command(program)
    }
    /// Starts a server inside the node; its log is `<name>.log` in the node's folder.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(name, command, &self.log(name))
    }

    /// Where the server of that name logs.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.log"))
    }

    async fn await_init(&self) -> Result<()> {
        let log = self.log("init");
        let ready = wait::until_true("the node's namespaces are ready", Duration::from_secs(10), || async {
            Ok(BufReader::new(File::open(&log)?).lines().any(|line| line.is_ok_and(|line| line == READY)))
        });
        ready.await.with_context(|| format!("the node's first process says:\n{}", process::tail(&log)))
    }

    /// Lays a wire between this machine and the node, and the routes to its pods and services.
    async fn connect(&self) -> Result<()> {
        let (link, addresses) = (self.addresses.link(), self.addresses);
        let init = self.init.id().to_string();
        let ip = cache::program("ip")?;
        let outside = [
            format!("link add {link} type veth peer name eth0 netns {init}"),
            format!("address add {}/30 dev {link}", addresses.host()),
            format!("link set {link} up"),
        ];
        let inside = [format!("address add {}/30 dev eth0", addresses.node()), "link set eth0 up".to_owned()];
        let routes = [
            format!("route replace {} via {}", addresses.pods(), addresses.node()),
            format!("route replace {} via {}", addresses.services(), addresses.node()),
        ];
        // After a crash the kernel may not have got round to removing the wire of the last holder of our number.
        remove_link(&link);
        for line in &outside {
            run_words(Command::new(&ip), line).await?;
        }
        for line in &inside {
            run_words(self.command(&ip), line).await?;
        }
        for line in &routes {
            run_words(Command::new(&ip), line).await?;
        }
        Ok(())
    }
}

/// The way into a node that this or another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrance {
    process: u32,
}

impl Entrance {
    /// A command that runs inside the node.
    #[must_use]
    pub fn command(self, program: impl AsRef<Path>) -> Command {
        let namespaces = format!("/proc/{}/ns", self.process);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={namespaces}/net")).arg(format!("--mount={namespaces}/mnt"));
        command
            .arg(format!("--cgroup={namespaces}/cgroup"))
            .arg(format!("--pid={namespaces}/pid_for_children"));
        command.arg("--").arg(program.as_ref()).stdin(Stdio::null());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // `unshare --kill-child` passes the death on to the first process, and the kernel to all others.
        self.init.signal(Signal::KILL);
        self.init.kill();
        cgroup::empty(self.run.path(), Duration::from_secs(10));
        // The kernel would remove the wire too, but not before it has got round to it.
        remove_link(&self.addresses.link());
    }
}

const READY: &str = "node is ready";

/// Runs before the namespaces are made: the cgroup in which a process stands then is the root of the new namespace.
const BEFORE: &str = r#"
set -eu
for cgroup in /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1"; do
  if [ -d "$cgroup" ]; then echo $$ >"$cgroup/cgroup.procs"; fi
done
shift
exec unshare --cgroup --net --mount --pid --fork --kill-child --mount-proc -- "$@"
"#;

/// What the node's first process does. The mounts belong to the node alone: a `/run` of its own holds containerd's
/// state and the pods' network namespaces, and the cgroups it sees are the folders made for it.
const INIT: &str = r#"
set -eu
mount --make-rshared /
for controller in /sys/fs/cgroup /sys/fs/cgroup/*; do
  if [ -d "$controller/$1" ]; then mount --bind "$controller/$1" "$controller"; fi
done
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 log /var/log
mkdir -p /run/netns /run/lock
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo "$2"
read -r _ || true
"#;

fn start_init(folder: &Path) -> Result<Process> {
    let name = cgroup::name(folder);
    let mut command = Command::new("bash");
    command.args(["-c", BEFORE, "before", &name, "bash", "-c", INIT, "init", &name, READY]);
    // Held open by the child handle and by nobody else: it closes when this process ends, however it ends.
    command.stdin(Stdio::piped());
    Process::start("the node's first process", command, &folder.join("init.log"))
}

fn remove_link(link: &str) {
    if let Ok(ip) = cache::program("ip") {
        let _ = Command::new(ip).args(["link", "delete", link]).stderr(Stdio::null()).status();
    }
}

async fn run_words(mut command: Command, words: &str) -> Result<()> {
    command.args(words.split(' '));
    process::output(command).await.map(drop)
}

/// Takes the first number that no other node on this machine has.
fn take_number() -> Result<(Addresses, File)> {
    for number in 0..Addresses::COUNT {
        if let Some(lock) = lock::take(&format!("node-{number}"))? {
            return Ok((Addresses::new(number), lock));
        }
    }
    bail!("all {} node networks are in use", Addresses::COUNT)
}
