//! What people see: metrics and their reference, dashboards, alerts and their runbooks.

mod dashboards;
mod expressions;
mod links;
mod lint;
mod panels;
mod reference;
mod rules;
mod support;
mod traces;
