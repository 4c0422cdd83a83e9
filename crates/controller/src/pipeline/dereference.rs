//! Reads what a pipeline refers to. No judgement here: a missing Secret is a fact for validation.

use std::collections::{BTreeMap, BTreeSet};

use analytics_api::AnalyticsPipeline;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::error::Error;
use crate::secrets::{Content, Secrets};

/// The Secrets that a pipeline names; `None` for one that does not exist.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct References {
    pub(crate) secrets: BTreeMap<String, Option<Content>>,
}

/// Reads every Secret that the pipeline names, in its own namespace only; `before` are the names of the last time. (client
/// required)
pub(crate) async fn run(
    pipeline: &AnalyticsPipeline,
    secrets: &Secrets,
    before: &mut BTreeSet<String>,
) -> Result<References, Error> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let user = ObjectRef::new(&pipeline.name_any()).within(&namespace);
    let names = names(pipeline);
    if !names.iter().copied().eq(&*before) {
        *before = names.iter().copied().cloned().collect();
        secrets.keep_only(&user, before);
    }
    let mut references = References::default();
    for name in names {
        let content = secrets.get(&namespace, name, &user).await?;
        references.secrets.insert(name.clone(), content);
    }
    Ok(references)
}

fn names(pipeline: &AnalyticsPipeline) -> BTreeSet<&String> {
    let (sink, security) = (&pipeline.spec.sink, &pipeline.spec.source.security);
    std::iter::once(&sink.url_secret_ref.name)
        .chain(sink.ca_secret_ref.as_ref().map(|reference| &reference.name))
        .chain(sink.client_certificate_secret_ref.as_ref().map(|reference| &reference.name))
        .chain(security.credentials_secret_ref.as_ref().map(|reference| &reference.name))
        .chain(security.ca_secret_ref.as_ref().map(|reference| &reference.name))
        .chain(security.client_certificate_secret_ref.as_ref().map(|reference| &reference.name))
        .collect()
}
