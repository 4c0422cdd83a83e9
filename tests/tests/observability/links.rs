//! Links between the documents lead somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use testbed::dashboards::repository;

/// Markdown files of the repository that people read.
pub(crate) fn pages() -> Result<Vec<PathBuf>> {
    let root = repository().canonicalize()?;
    let mut pages = Vec::new();
    let mut folders = vec![root.join("docs"), root.join("charts")];
    for entry in std::fs::read_dir(&root)?.flatten() {
        pages.extend(Some(entry.path()).filter(|path| is_page(path)));
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if is_page(&path) {
                pages.push(path);
            }
        }
    }
    Ok(pages)
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// The text outside of code, where brackets are links.
fn prose(page: &str) -> String {
    let blocks = page.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    blocks.split('`').step_by(2).collect()
}

fn targets(page: &str) -> Vec<String> {
    let text = prose(page);
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors that the headings of a page have on the usual sites: lower case, hyphens for spaces, no punctuation.
fn anchors(page: &str) -> BTreeSet<String> {
    let outside = page.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    let headings =
        outside.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading.to_lowercase();
            let kept =
                kept.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() -> Result<()> {
    let mut broken = Vec::new();
    let mut checked = 0;
    for page in pages()? {
        let text = std::fs::read_to_string(&page)?;
        for target in targets(&text) {
            // What is elsewhere cannot be checked without the network.
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            checked += 1;
            let leads = path.exists()
                && (anchor.is_empty() || anchors(&std::fs::read_to_string(&path)?).contains(anchor));
            if !leads {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(checked > 40, "only {checked} links were found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    Ok(())
}

#[test]
fn every_page_of_the_documentation_is_reached_from_its_index() -> Result<()> {
    let docs = repository().join("docs").canonicalize()?;
    let (mut reached, mut next) = (BTreeSet::new(), vec![docs.join("README.md")]);
    while let Some(page) = next.pop() {
        if !reached.insert(page.clone()) {
            continue;
        }
        for target in targets(&std::fs::read_to_string(&page)?) {
            let file = target.split('#').next().unwrap_or_default();
            if let Ok(path) = page.with_file_name("").join(file).canonicalize()
                && is_page(&path)
                && path.starts_with(&docs)
            {
                next.push(path);
            }
        }
    }
    let missing: Vec<_> =
        pages()?.into_iter().filter(|page| page.starts_with(&docs) && !reached.contains(page)).collect();
    assert!(missing.is_empty(), "no way from docs/README.md to {missing:?}");
    Ok(())
}
