//! What the test of the test bed needs: an image with a shell, a pod that looks around, and a look for remains.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use testbed::together::Endpoints;
use testbed::{Cluster, Testbed, cache, process, run, wait};

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

/// Runs the script in a pod to its end.
pub(crate) async fn run_pod(cluster: &Cluster, namespace: &str, script: &str) -> Result<()> {
    let container = json!({"name": "shell", "image": SHELL_IMAGE, "command": ["bash", "-c", script]});
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "reach"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }))?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    pods.create(&PostParams::default(), &pod).await?;
    let ended = wait::until("the pod has ended", Duration::from_secs(60), || async {
        let phase = pods.get("reach").await?.status.and_then(|status| status.phase);
        Ok(phase.filter(|phase| phase == "Succeeded" || phase == "Failed"))
    });
    if ended.await? != "Succeeded" {
        bail!("the pod has failed:\n{}", cluster.diagnose(namespace).await);
    }
    Ok(())
}

/// Everything by which a test bed could be found after its end.
pub(crate) struct Traces {
    folder: PathBuf,
    cgroup: String,
    link: PathBuf,
}

impl Traces {
    pub(crate) fn of(testbed: &Testbed) -> Self {
        let node = testbed.cluster.node().expect("the cluster is our own");
        let name = node.folder().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let link = Path::new("/sys/class/net").join(node.addresses().link());
        assert!(link.exists(), "the wire is where the test looks for it");
        Self { folder: node.folder().to_owned(), cgroup: name, link }
    }

    /// What is left of it: processes by their command line, mounts, folders, cgroups, the wire.
    pub(crate) fn left(&self) -> Vec<String> {
        let folder = self.folder.to_string_lossy().into_owned();
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            if arguments.contains(&folder) {
                left.push(format!("process {}", arguments));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")));
        let cgroups = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let cgroups =
            cgroups.flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
        let own = cgroups.filter(|entry| entry.file_name().to_string_lossy().contains(&self.cgroup));
        left.extend(own.map(|entry| format!("cgroup {}", entry.path().display())));
        for path in [&self.folder, &self.link] {
            left.extend(path.exists().then(|| path.display().to_string()));
        }
        let root = run::root();
        assert!(root.is_dir(), "the root of all runs stays");
        left
    }
}
