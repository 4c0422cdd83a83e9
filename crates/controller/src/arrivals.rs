//! Pipelines with nothing to do are left alone for a while. Whether something has arrived for one of them is asked all the time, of
//! all of them together, and what arrives has its pipeline reconciled at once.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;

use crate::context::{ByNamespace, Context, Pipeline};
use crate::pipeline;
use crate::secrets::Changes;

/// Pause between two looks. Kafka is asked less often.
const TICK: Duration = Duration::from_secs(1);

/// Runs until it is dropped. Pipelines to reconcile are sent to `wake`. (talks to Kafka)
pub(crate) async fn watch(context: Arc<Context>, wake: ByNamespace<Changes>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        context.kafka.read_ends();
        let woken = context.memories.woken(|memory| pipeline::wakes(memory, &context));
        for (namespace, name) in woken {
            if let Some(wake) = wake.get(&namespace) {
                // A closed channel means that the controller is stopping.
                let _ = wake.unbounded_send(ObjectRef::<Pipeline>::new(&name).within(&namespace));
            }
        }
    }
}
