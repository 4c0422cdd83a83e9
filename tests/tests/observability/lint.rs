//! What every dashboard must be, whatever it shows: complete, portable between Grafanas, and consistent.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use testbed::dashboards::{Dashboard, INTERVALS, TITLES, list};
use testbed::promql::grouping;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

#[test]
fn there_are_four_and_each_has_its_title_and_its_own_uid() -> Result<()> {
    let dashboards = Dashboard::all()?;
    let titles: Vec<_> = dashboards.iter().map(|one| (one.name.as_str(), text(&one.json, "title"))).collect();
    assert_eq!(titles, TITLES);
    let uids: BTreeSet<_> = dashboards.iter().map(|one| text(&one.json, "uid")).collect();
    assert_eq!(uids.len(), TITLES.len());
    for dashboard in &dashboards {
        let version = dashboard.json["schemaVersion"].as_i64().unwrap_or_default();
        assert!(
            (38..=41).contains(&version),
            "{}: Grafana 10 to 12 read schema 38 to 41, not {version}",
            dashboard.name
        );
        assert_eq!(dashboard.json["editable"], false, "{}", dashboard.name);
        assert!(!text(&dashboard.json, "description").is_empty(), "{}", dashboard.name);
        let links: Vec<_> = list(&dashboard.json["links"]).iter().map(|link| text(link, "url")).collect();
        for uid in uids.iter().filter(|uid| **uid != text(&dashboard.json, "uid")) {
            assert!(
                links.iter().any(|link| link.starts_with(&format!("/d/{uid}?"))),
                "{}: no link to {uid}",
                dashboard.name
            );
        }
        for link in links {
            let target = dashboards.iter().find(|other| link.contains(text(&other.json, "uid")));
            let target = target.with_context(|| format!("{}: {link} leads nowhere", dashboard.name))?;
            // What is chosen here is chosen there; only intervals have other values on other pages.
            for name in names(dashboard).intersection(&names(target)).filter(|name| **name != "interval") {
                let passed = link.contains(&format!("${{{name}:queryparam}}"));
                assert!(passed, "{}: {link} forgets {name}", dashboard.name);
            }
        }
    }
    Ok(())
}

fn names(dashboard: &Dashboard) -> BTreeSet<&str> {
    dashboard.variables().iter().map(|variable| text(variable, "name")).collect()
}

#[test]
fn each_has_the_variables_and_annotations_that_all_share() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let names = names(&dashboard);
        for name in ["datasource", "namespace", "pipeline", "interval"] {
            assert!(names.contains(name), "{}: no variable {name}", dashboard.name);
        }
        for variable in dashboard.variables() {
            assert!(!text(variable, "label").is_empty(), "{}: {variable}", dashboard.name);
            // Rows are grouped by the interval, so what it offers has to be what the tests run.
            if text(variable, "name") == "interval" && names.contains("database") {
                let offered = text(variable, "query").split(',');
                for one in offered {
                    assert!(INTERVALS.iter().any(|(name, _)| *name == one), "{}: {one}", dashboard.name);
                }
            }
        }
        let annotations: BTreeSet<_> = list(&dashboard.json["annotations"]["list"])
            .iter()
            .map(|annotation| text(annotation, "name"))
            .collect();
        assert!(annotations.contains("Scaling") && annotations.contains("Rollouts"), "{}", dashboard.name);
    }
    Ok(())
}

#[test]
fn no_data_source_is_hard_coded() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let mut uids = Vec::new();
        data_sources(&dashboard.json, &mut uids);
        assert!(!uids.is_empty());
        for uid in uids {
            let known = ["${datasource}", "${database}", "-- Grafana --"].contains(&uid.as_str());
            assert!(known, "{}: the data source {uid} is hard-coded", dashboard.name);
        }
    }
    Ok(())
}

fn data_sources(value: &Value, uids: &mut Vec<String>) {
    if let Some(source) = value.get("datasource") {
        uids.push(text(source, "uid").to_owned());
    }
    let children: Vec<&Value> = match value {
        Value::Array(values) => values.iter().collect(),
        Value::Object(values) => values.values().collect(),
        _ => Vec::new(),
    };
    for child in children {
        data_sources(child, uids);
    }
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_what_no_data_means() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let ids: BTreeSet<_> =
            list(&dashboard.json["panels"]).iter().map(|panel| panel["id"].as_i64()).collect();
        assert_eq!(
            ids.len(),
            list(&dashboard.json["panels"]).len(),
            "{}: two panels have one id",
            dashboard.name
        );
        for panel in dashboard.panels() {
            let at = format!("{}, panel `{}`", dashboard.name, text(panel, "title"));
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(
                !text(panel, "title").is_empty() && text(panel, "description").len() > 20,
                "{at}: no description"
            );
            assert!(!text(defaults, "unit").is_empty(), "{at}: no unit");
            assert!(!list(&defaults["thresholds"]["steps"]).is_empty(), "{at}: no thresholds");
            assert!(!list(&panel["targets"]).is_empty(), "{at}: no query");
            let references: BTreeSet<_> =
                list(&panel["targets"]).iter().map(|target| text(target, "refId")).collect();
            assert!(!references.contains(""), "{at}: a query without refId");
            assert_eq!(references.len(), list(&panel["targets"]).len(), "{at}: two queries have one refId");
            let always = list(&panel["targets"]).iter().all(|target| {
                text(target, "expr").contains("vector(0)")
                    || (panel["type"] == "stat" && target.get("rawSql").is_some())
            });
            assert!(
                always || !text(defaults, "noValue").is_empty(),
                "{at}: may show nothing without saying so"
            );
        }
    }
    Ok(())
}

#[test]
fn no_two_panels_overlap() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let mut taken = BTreeSet::new();
        for panel in list(&dashboard.json["panels"]) {
            let side = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_default();
            assert!(
                side("x") + side("w") <= 24,
                "{}: `{}` is too wide",
                dashboard.name,
                text(panel, "title")
            );
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    assert!(taken.insert((x, y)), "{}: `{}` overlaps", dashboard.name, text(panel, "title"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn ranges_are_grafanas_so_that_they_fit_every_zoom_and_scrape_interval() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let targets = dashboard.panels().into_iter().flat_map(|panel| list(&panel["targets"]));
        let expressions = targets.map(|target| text(target, "expr")).chain(dashboard.annotations());
        for expression in expressions {
            for range in expression.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
                let fits = ["$__rate_interval", "$__range"].contains(&range);
                assert!(fits, "{}: [{range}] in {expression}", dashboard.name);
            }
        }
    }
    Ok(())
}

/// A graph of several lines with `or vector(0)` has one more, which has no name and means nothing.
#[test]
fn a_query_with_several_lines_makes_up_none() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for target in dashboard.panels().into_iter().flat_map(|panel| list(&panel["targets"])) {
            let expression = text(target, "expr");
            let grouped = grouping(expression).iter().any(|label| label != "le");
            assert!(!grouped || !expression.contains("vector("), "{}: {expression}", dashboard.name);
        }
    }
    Ok(())
}

/// Names of two pipelines may be equal, only not in one namespace.
#[test]
fn a_line_that_names_its_pipeline_names_its_namespace() -> Result<()> {
    for dashboard in Dashboard::all()? {
        let targets = dashboard.panels().into_iter().flat_map(|panel| list(&panel["targets"]));
        let annotations = list(&dashboard.json["annotations"]["list"]).iter();
        let legends = targets.map(|target| text(target, "legendFormat"));
        for legend in legends.chain(annotations.map(|annotation| text(annotation, "textFormat"))) {
            let complete = !legend.contains("{{pipeline}}") || legend.contains("{{namespace}}/{{pipeline}}");
            assert!(complete, "{}: {legend}", dashboard.name);
        }
    }
    Ok(())
}
