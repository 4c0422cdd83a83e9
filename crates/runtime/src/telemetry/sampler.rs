//! Which traces are kept: the samplers of the OpenTelemetry specification, with one addition for batches.
//!
//! A batch has many causes and therefore no parent, only links to the contexts that producers left in its records. Taken
//! for a root, it would be kept by chance: with a share of 1 %, 99 of 100 producers whose trace is kept lead to nothing. So
//! a sampler that goes by the parent goes by the links where there is no parent: a batch is kept if one of its producers' traces is.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};

use super::TelemetryError;
use super::environment::{Lookup, alternatives, first_set, refuse};

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
/// What can be chosen; the first is the default of the specification.
const ALLOWED: [&str; 6] = [
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
    "always_on",
    "always_off",
    "traceidratio",
];

/// The sampler that the variables name.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    sampler: Sampler,
    /// Whether a span without a parent goes by its links.
    pub(super) goes_by_links: bool,
}

impl Chosen {
    /// What `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say.
    pub(super) fn read(lookup: Lookup<'_>) -> Result<Self, TelemetryError> {
        let name = name(lookup)?;
        let (goes_by_links, of_roots) = match name.strip_prefix("parentbased_") {
            Some(of_roots) => (true, of_roots),
            None => (false, name),
        };
        let of_roots = match of_roots {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            _ => Sampler::TraceIdRatioBased(ratio(lookup)?),
        };
        if !matches!(of_roots, Sampler::TraceIdRatioBased(_)) && first_set(lookup, [ARGUMENT; 2]).is_some() {
            tracing::warn!(sampler = name, "OTEL_TRACES_SAMPLER_ARG has no effect: the sampler takes none");
        }
        let sampler = if goes_by_links { Sampler::ParentBased(Box::new(of_roots)) } else { of_roots };
        Ok(Self { sampler, goes_by_links })
    }
}

// In small letters, as the SDK has them: it reads the variable too, and would warn of anything else.
fn name(lookup: Lookup<'_>) -> Result<&'static str, TelemetryError> {
    let Some((variable, text)) = first_set(lookup, [SAMPLER; 2]) else { return Ok(ALLOWED[0]) };
    let found = ALLOWED.into_iter().find(|name| *name == text);
    found.ok_or_else(|| refuse(variable, &text, &alternatives(&ALLOWED)))
}

// The default is the specification's.
fn ratio(lookup: Lookup<'_>) -> Result<f64, TelemetryError> {
    let Some((name, text)) = first_set(lookup, [ARGUMENT; 2]) else { return Ok(1.0) };
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| refuse(name, &text, "a number from 0 (no trace) to 1 (every trace)"))
}

impl ShouldSample for Chosen {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let linked = self.goes_by_links
            && links.iter().any(|link| link.span_context.is_sampled())
            && !parent.is_some_and(|context| context.span().span_context().is_valid());
        let sampler = if linked { &Sampler::AlwaysOn } else { &self.sampler };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::SamplingDecision;

    use super::super::environment::tests::environment;
    use super::*;

    fn context(flags: TraceFlags) -> SpanContext {
        SpanContext::new(TraceId::from(7), SpanId::from(7), flags, true, TraceState::default())
    }

    fn keeps(sampler: &Chosen, parent: Option<TraceFlags>, links: &[TraceFlags]) -> bool {
        let parent = parent.map(|flags| Context::new().with_remote_span_context(context(flags)));
        let links: Vec<_> = links.iter().map(|flags| Link::with_context(context(*flags))).collect();
        let parent = parent.unwrap_or_default();
        let kind = SpanKind::Consumer;
        // The smallest of all trace ids is in every share but 0.
        let result = sampler.should_sample(Some(&parent), TraceId::from(1), "batch", &kind, &[], &links);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// With a small share, nearly no producer whose trace is kept would lead to the batch that stored its event.
    #[test]
    fn a_root_goes_by_its_links_if_the_sampler_goes_by_the_parent() {
        const YES: TraceFlags = TraceFlags::SAMPLED;
        const NO: TraceFlags = TraceFlags::NOT_SAMPLED;
        // The sampler for roots keeps none. Is it kept without links, with one that is not sampled, with one that is, and with
        // one that is below a parent that is not?
        type Variables = &'static [(&'static str, &'static str)];
        let table: [(Variables, [bool; 4]); 6] = [
            (&[(SAMPLER, "parentbased_traceidratio"), (ARGUMENT, "0")], [false, false, true, false]),
            (&[(SAMPLER, "parentbased_always_off")], [false, false, true, false]),
            (&[(SAMPLER, "traceidratio"), (ARGUMENT, "0")], [false; 4]),
            (&[(SAMPLER, "always_off")], [false; 4]),
            (&[(SAMPLER, "always_on")], [true; 4]),
            (&[], [true, true, true, false]),
        ];
        for (pairs, expected) in table {
            let sampler = Chosen::read(&environment(pairs)).unwrap();
            let found = [
                keeps(&sampler, None, &[]),
                keeps(&sampler, None, &[NO]),
                keeps(&sampler, None, &[NO, YES]),
                keeps(&sampler, Some(NO), &[YES]),
            ];
            assert_eq!(found, expected, "{pairs:?}");
            assert!(!sampler.goes_by_links || keeps(&sampler, Some(YES), &[]), "{pairs:?}");
        }
    }

    #[test]
    fn the_share_is_all_unless_it_is_given() {
        let table: [(&'static [(&str, &str)], bool); 3] = [
            (&[(SAMPLER, "traceidratio")], true),
            (&[(SAMPLER, "traceidratio"), (ARGUMENT, "1e-3")], true),
            (&[(SAMPLER, "traceidratio"), (ARGUMENT, "0.0")], false),
        ];
        for (pairs, expected) in table {
            let sampler = Chosen::read(&environment(pairs)).unwrap();
            assert_eq!(keeps(&sampler, None, &[]), expected, "{pairs:?}");
        }
    }

    /// The SDK takes each of these for "every trace", and says so to nobody.
    #[test]
    fn a_misspelt_sampler_or_share_is_refused() {
        let table: [(&'static [(&str, &str)], &str); 6] = [
            (&[(SAMPLER, "parentbased_traceid_ratio")], "`parentbased_traceidratio`"),
            (&[(SAMPLER, "jaeger_remote")], "or `traceidratio`"),
            (&[(SAMPLER, "traceidratio"), (ARGUMENT, "1%")], "from 0"),
            (&[(SAMPLER, "traceidratio"), (ARGUMENT, "0,01")], "from 0"),
            (&[(SAMPLER, "traceidratio"), (ARGUMENT, "NaN")], "from 0"),
            (&[(SAMPLER, "parentbased_traceidratio"), (ARGUMENT, "10")], "to 1"),
        ];
        for (pairs, expected) in table {
            let error = Chosen::read(&environment(pairs)).unwrap_err().to_string();
            let (name, value) = pairs.last().unwrap();
            assert!(error.contains(&format!("{name} is `{value}`")) && error.contains(expected), "{error}");
        }
    }
}
