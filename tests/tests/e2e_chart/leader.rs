//! Two controllers, of which one leads.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::Api;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testbed::wait;

use crate::world::{OPERATOR, SOON, World, restarts};

/// The Lease lasts 15 s; a successor that looks every two seconds and a busy machine come on top.
const TAKEOVER: Duration = Duration::from_secs(40);

pub(crate) async fn a_killed_leader_is_replaced_within_seconds(world: &World) -> Result<()> {
    let leader = leader(world).await?;
    let process = process_of(&leader)?;
    let killed = Instant::now();
    let renewed = renewals(world).await?;
    kill_process(process, Signal::KILL)?;
    // Whichever is first: the other controller, or the same pod with a new process.
    wait::until_true("a controller leads again", TAKEOVER, || async {
        Ok(renewals(world).await? != renewed)
    })
    .await?;
    eprintln!(
        "after kill -9 of the leader the Lease was renewed again within {:.1} s",
        killed.elapsed().as_secs_f32()
    );
    world.apply(json!({"scaling": {"mode": "Fixed", "replicas": 3}})).await?;
    world.consumers_become(3).await
}

/// A frozen leader does not know that its time is over: when it wakes, it must end instead of writing.
pub(crate) async fn a_leader_that_was_frozen_gives_way(world: &World) -> Result<()> {
    wait::until_true("both controllers run", SOON, || async {
        let pods = world.pods(OPERATOR, "analytics-controller").await?;
        let ready = |pod: &k8s_openapi::api::core::v1::Pod| {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
            statuses.unwrap_or_default().iter().all(|status| status.ready)
        };
        Ok(pods.len() == 2 && pods.iter().all(ready))
    })
    .await?;
    let leader = leader(world).await?;
    let before = restarts_of(world, &leader).await?;
    let process = process_of(&leader)?;
    let frozen = Instant::now();
    kill_process(process, Signal::STOP)?;
    let successor = wait::until("the other controller leads", TAKEOVER, || async {
        Ok(Some(holder(world).await?).filter(|holder| !holder.is_empty() && *holder != leader))
    });
    let successor = successor.await;
    kill_process(process, Signal::CONT)?;
    let successor = successor?;
    eprintln!("a frozen leader was replaced within {:.1} s", frozen.elapsed().as_secs_f32());
    wait::until_true("the frozen controller has ended", SOON, || async {
        Ok(restarts_of(world, &leader).await? > before)
    })
    .await?;
    ensure!(holder(world).await? == successor, "the one that was frozen leads again");
    world.apply(json!({"scaling": {"mode": "Fixed", "replicas": 1}})).await?;
    world.consumers_become(1).await
}

async fn lease(world: &World) -> Result<Lease> {
    let api: Api<Lease> = Api::namespaced(world.client.clone(), OPERATOR);
    Ok(api.get("analytics-controller").await?)
}

async fn holder(world: &World) -> Result<String> {
    Ok(lease(world).await?.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

/// How often the Lease has gone from one holder to another.
pub(crate) async fn transitions(world: &World) -> Result<usize> {
    let transitions = lease(world).await?.spec.and_then(|spec| spec.lease_transitions);
    Ok(transitions.unwrap_or(0).try_into()?)
}

/// The controller that leads, once one of those that run now does.
async fn leader(world: &World) -> Result<String> {
    wait::until("one of the controllers leads", SOON, || async {
        let holder = holder(world).await?;
        let pods = world.pods(OPERATOR, "analytics-controller").await?;
        Ok(pods.iter().any(|pod| pod.name_any() == holder).then_some(holder))
    })
    .await
}

async fn renewals(world: &World) -> Result<Option<String>> {
    Ok(lease(world).await?.resource_version())
}

async fn restarts_of(world: &World, pod: &str) -> Result<i32> {
    let pods = world.pods(OPERATOR, "analytics-controller").await?;
    Ok(pods.iter().find(|candidate| candidate.name_any() == pod).map(restarts).unwrap_or_default())
}

/// The process of a controller's pod, as this machine sees it.
fn process_of(pod: &str) -> Result<Pid> {
    let wanted = format!("POD_NAME={pod}");
    let is_it = |folder: &PathBuf| {
        let variables = std::fs::read(folder.join("environ")).unwrap_or_default();
        variables.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let folders = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    let found = folders.filter(is_it).find_map(|folder| folder.file_name()?.to_str()?.parse().ok());
    found.and_then(Pid::from_raw).with_context(|| format!("no process of {pod} was found"))
}
