//! What the shell offers behind `kubectl apl`.
//!
//! kubectl asks a program `kubectl_complete-apl` for that, with the words so far and the one that is being typed; it answers
//! with one candidate in each line and, last, a number that says what the shell does with them. This program is that one as well
//! when it is called by that name.

use clap::CommandFactory;

use crate::arguments::{Arguments, Connection};
use crate::cluster::Cluster;

/// By this name kubectl looks for the completions of the plugin.
const NAME: &str = "kubectl_complete-apl";
/// The shell offers these candidates and no files (cobra's ShellCompDirectiveNoFileComp).
const NO_FILES: &str = ":4";
/// The shell offers files (cobra's ShellCompDirectiveDefault).
const FILES: &str = ":0";

/// What the shell is to offer.
#[derive(Debug, PartialEq, Eq)]
enum Offer {
    /// These words.
    Words(Vec<String>),
    /// The names of the pipelines.
    Pipelines,
    /// Files.
    Files,
}

/// Whether this program was called for completions.
pub(crate) fn is_wanted(program: Option<&std::ffi::OsStr>) -> bool {
    program.is_some_and(|program| std::path::Path::new(program).file_name().is_some_and(|name| name == NAME))
}

/// The answer for these words, of which the last one is being typed.
pub(crate) async fn answer(words: &[String]) -> String {
    let (typed, before) =
        words.split_last().map_or(("", &[][..]), |(typed, before)| (typed.as_str(), before));
    let (candidates, directive) = match offer(before, typed) {
        Offer::Words(words) => (words, NO_FILES),
        // Whoever has no cluster at hand is offered nothing, instead of an error in the middle of a line.
        Offer::Pipelines => (pipelines(before).await.unwrap_or_default(), NO_FILES),
        Offer::Files => (Vec::new(), FILES),
    };
    let lines = candidates.into_iter().filter(|candidate| candidate.starts_with(typed));
    lines.chain([directive.to_owned()]).map(|line| line + "\n").collect()
}

async fn pipelines(before: &[String]) -> Option<Vec<String>> {
    let Line { connection, .. } = Line::read(before);
    Cluster::connect(&connection).await.ok()?.names().await.ok()
}

/// The words so far.
struct Line<'a> {
    connection: Connection,
    /// Those that are neither options nor their values.
    plain: Vec<&'a str>,
    /// The word that is being typed is the value of an option.
    value_is_due: bool,
}

impl<'a> Line<'a> {
    // (no client required)
    fn read(before: &'a [String]) -> Self {
        let connection = Connection { namespace: None, context: None };
        let mut line = Self { connection, plain: Vec::new(), value_is_due: false };
        let mut words = before.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let (option, value) =
                word.split_once('=').map_or((word, None), |(option, value)| (option, Some(value)));
            let slot = match option {
                "-n" | "--namespace" => &mut line.connection.namespace,
                "--context" => &mut line.connection.context,
                "--operator-namespace" | "--replay" => {
                    line.value_is_due = value.or_else(|| words.next()).is_none();
                    continue;
                }
                _ => {
                    if !option.starts_with('-') {
                        line.plain.push(word);
                    }
                    continue;
                }
            };
            *slot = value.or_else(|| words.next()).map(str::to_owned);
            line.value_is_due = slot.is_none();
        }
        line
    }
}

// (no client required)
fn offer(before: &[String], typed: &str) -> Offer {
    let words = |words: &[&str]| Offer::Words(words.iter().map(|word| (*word).to_owned()).collect());
    let line = Line::read(before);
    let Some((command, names)) = line.plain.split_first() else {
        let commands = Arguments::command();
        return Offer::Words(
            commands.get_subcommands().map(|command| command.get_name().to_owned()).collect(),
        );
    };
    match (*command, names.len()) {
        _ if line.value_is_due => words(&[]),
        ("validate", _) if !typed.starts_with('-') => Offer::Files,
        ("completion", 0) => words(&["bash", "elvish", "fish", "powershell", "zsh"]),
        ("status" | "explain" | "pause" | "resume" | "dead-letters", 0) => Offer::Pipelines,
        ("dead-letters", 1) => words(&["list", "count", "show", "replay"]),
        _ => words(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_offered_at_each_place() {
        let words = |words: &[&str]| Offer::Words(words.iter().map(|word| (*word).to_owned()).collect());
        let table: [(&[&str], Offer); 8] = [
            (&["status"], Offer::Pipelines),
            (&["-n", "shop", "pause"], Offer::Pipelines),
            (&["--context=a", "explain"], Offer::Pipelines),
            (&["status", "clicks"], words(&[])),
            (&["status", "-n"], words(&[])),
            (&["dead-letters", "clicks"], words(&["list", "count", "show", "replay"])),
            (&["validate", "-f"], Offer::Files),
            (&["completion"], words(&["bash", "elvish", "fish", "powershell", "zsh"])),
        ];
        for (before, expected) in table {
            let before: Vec<_> = before.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(offer(&before, ""), expected, "{before:?}");
        }
        let words = ["-n", "shop", "pause", "--context=a"].map(str::to_owned);
        let Connection { namespace, context } = Line::read(&words).connection;
        assert_eq!((namespace.as_deref(), context.as_deref()), (Some("shop"), Some("a")));
        let Offer::Words(commands) = offer(&[], "") else { panic!("no commands") };
        assert!(commands.contains(&"dead-letters".to_owned()), "{commands:?}");
    }

    #[test]
    fn the_program_knows_by_its_name_what_it_is_called_for() {
        use std::ffi::OsStr;
        assert!(is_wanted(Some(OsStr::new("/usr/local/bin/kubectl_complete-apl"))));
        assert!(!is_wanted(Some(OsStr::new("kubectl-apl"))));
    }
}
