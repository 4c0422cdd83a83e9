//! What the test of the test bed needs: an image with a shell, a pod that looks around, and a look for remains.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{LogParams, PostParams};
use serde_json::json;
use tempfile::TempDir;
use testbed::together::Endpoints;
use testbed::{Cluster, cache, process, run, wait};

const SHELL_IMAGE: &str = "analyticspipeline.dev/shell:1";

/// An image of bash with its libraries and kubectl, put together without an engine.
pub(crate) async fn shell_image() -> Result<PathBuf> {
    let script = r#"
        set -euo pipefail
        part=test here=tests/setup
        . "$1/setup/lib.sh"
        bash=$(realpath /bin/bash)
        tar --create --dereference --absolute-names --file "$2/layer.tar" --transform 's,.*/kubectl$,/bin/kubectl,' \
          "$bash" $(ldd "$bash" | grep --only-matching '/[^ ]*') "$3"
        docker_archive "$2/layer.tar" "$4" '{"Env":["PATH=/bin:/usr/bin"]}' "$2/shell.tar""#;
    let folder = tempfile::tempdir()?.keep();
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", env!("CARGO_MANIFEST_DIR")]).arg(&folder);
    command.arg(cache::part("kubernetes")?.join("kubectl")).arg(SHELL_IMAGE);
    process::output(command).await?;
    Ok(folder.join("shell.tar"))
}

/// Asks the API server who the pod is, through the service address, and opens a connection to each server.
pub(crate) fn reach_script(endpoints: &Endpoints) -> String {
    let kafka = endpoints.kafka_for_pods.replace(':', "/");
    let postgres =
        endpoints.database_url_for_pods.split(['@', '/']).nth(3).unwrap_or_default().replace(':', "/");
    format!(
        "kubectl auth whoami && echo api server: ok
         (: </dev/tcp/{kafka}) && echo kafka: ok
         (: </dev/tcp/{postgres}) && echo postgres: ok
         echo done"
    )
}

/// Runs the script in a pod to its end and returns what it said.
pub(crate) async fn run_script(cluster: &Cluster, namespace: &str, script: &str) -> Result<String> {
    let container = json!({"name": "only", "image": SHELL_IMAGE, "command": ["bash", "-c", script]});
    run_pod(cluster, namespace, "script", json!({"restartPolicy": "Never", "containers": [container]})).await
}

/// Runs a command of an image, with what the Pod Security level "restricted" asks for, and returns what it said.
pub(crate) async fn run_restricted(
    cluster: &Cluster,
    namespace: &str,
    image: &str,
    command: &[&str],
) -> Result<String> {
    let may = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
    });
    let spec = json!({
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "only", "image": image, "command": command, "securityContext": may}],
    });
    run_pod(cluster, namespace, command[0], spec).await
}

async fn run_pod(cluster: &Cluster, namespace: &str, name: &str, spec: serde_json::Value) -> Result<String> {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    pods.create(&PostParams::default(), &pod).await?;
    let ended = wait::until("the pod has ended", Duration::from_secs(60), || async {
        let phase = pods.get(name).await?.status.and_then(|status| status.phase);
        Ok(phase.filter(|phase| phase == "Succeeded" || phase == "Failed"))
    });
    ensure!(ended.await? == "Succeeded", "the pod has failed:\n{}", cluster.diagnose(namespace).await);
    Ok(pods.logs(name, &LogParams::default()).await?)
}

/// Another process that holds a test bed, in a temporary folder of its own.
pub(crate) struct Owner {
    folder: TempDir,
    process: Child,
}

impl Owner {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // PostgreSQL's user must get through.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let mut command = testbed_command(folder.path());
        command.arg("serve").stdin(Stdio::null()).stderr(File::create(folder.path().join("log"))?);
        Ok(Self { process: command.spawn()?, folder })
    }

    pub(crate) async fn endpoints(&mut self) -> Result<Endpoints> {
        let record = self.root().join("up.json");
        let log = self.folder.path().join("log");
        let up = wait::until("the other test bed is up", Duration::from_secs(120), || async {
            Ok(Some(serde_json::from_str(&std::fs::read_to_string(&record)?)?))
        });
        up.await.with_context(|| process::tail(&log))
    }

    /// Kills the process as a person would who has lost patience.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Lets `testbed down` remove the folders.
    pub(crate) fn clean(&self) -> Result<()> {
        ensure!(testbed_command(self.folder.path()).arg("down").stdout(Stdio::null()).status()?.success());
        Ok(())
    }

    /// Where its test beds have their folders.
    pub(crate) fn root(&self) -> PathBuf {
        let own = run::root();
        self.folder.path().join(own.file_name().unwrap_or_default())
    }
}

fn testbed_command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.env("TMPDIR", folder);
    command
}

/// Everything by which a test bed could be found after its end.
pub(crate) struct Traces {
    folder: PathBuf,
    node: PathBuf,
    address: String,
}

impl Traces {
    /// Of a test bed whose servers name `folder` or what is in it in their arguments.
    pub(crate) fn of(endpoints: &Endpoints, folder: &Path) -> Result<Self> {
        let node = node_folder(endpoints)?;
        let address = endpoints.kafka_for_pods.split(':').next().context("Kafka has an address")?.to_owned();
        let traces = Self { folder: folder.to_owned(), node, address };
        ensure!(!traces.processes().is_empty(), "the servers cannot be found while they run");
        ensure!(traces.in_the_kernel().len() > traces.processes().len(), "the address cannot be found");
        Ok(traces)
    }

    /// What is left of it anywhere.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = self.in_the_kernel();
        let name = self.node.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let controllers = entries(Path::new("/sys/fs/cgroup"));
        let cgroups = controllers.iter().flat_map(|controller| entries(controller));
        left.extend(cgroups.map(|path| path.display().to_string()).filter(|path| path.contains(&name)));
        left.extend(self.folder_exists().then(|| self.node.display().to_string()));
        left
    }

    pub(crate) fn folder_exists(&self) -> bool {
        self.node.exists()
    }

    /// What is left of it but files.
    pub(crate) fn in_the_kernel(&self) -> Vec<String> {
        let mut left = self.processes();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.to_string_lossy();
        left.extend(
            mounts.lines().filter(|line| line.contains(folder.as_ref())).map(|line| format!("mount {line}")),
        );
        let addresses = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
        left.extend(addresses.contains(&self.address).then(|| format!("address {}", self.address)));
        left
    }

    /// Processes that name the folder, and those that see its mounts.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.to_string_lossy();
        let mut found = Vec::new();
        for process in entries(Path::new("/proc")) {
            let read = |file: &str| std::fs::read(process.join(file)).unwrap_or_default();
            let (arguments, mounts) = (read("cmdline"), read("mounts"));
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            if arguments.contains(folder.as_ref())
                || String::from_utf8_lossy(&mounts).contains(folder.as_ref())
            {
                found.push(format!("process {arguments}"));
            }
        }
        found
    }
}

/// The folder of the node, which holds the kubeconfig.
pub(crate) fn node_folder(endpoints: &Endpoints) -> Result<PathBuf> {
    let found = endpoints.kubeconfig.ancestors().nth(2);
    found.map(Path::to_owned).context("the kubeconfig lies in the node's folder")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
