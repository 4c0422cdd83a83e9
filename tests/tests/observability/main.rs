//! What people see: metrics and their reference, dashboards, alerts and their runbooks.

mod collectors;
mod links;
mod lint;
mod measure;
mod panels;
mod reference;
mod rules;
mod scrape;
mod support;
mod traces;
