//! Settings: environment variables that services declare, and the check for undeclared ones.
//!
//! A misspelled variable would silently leave a default in place. Variables of the namespace `PHASE6_*` must
//! therefore be known: as the variable of a command-line option, or as a declared setting. Variables
//! outside of it belong to others too (`OPENAI_API_KEY`), and are read only where they are declared.

mod page;

use std::collections::BTreeSet;

use phase6_chassis::{Environment, Setting, SettingKind, identity::InternalToken};

pub use self::page::settings_page;
use crate::{
    RunError,
    services::{DEFINITIONS, definition},
    table::Table,
};

/// Prefix of our own variables.
const PREFIX: &str = "PHASE6_";
/// Prefixes of variables that only tests and developers' commands read. A developer may have them in the
/// environment.
const TEST_PREFIXES: [&str; 6] =
    ["PHASE6_TEST_", "PHASE6_E2E", "PHASE6_CHAOS_", "PHASE6_FUZZ_", "PHASE6_FIRST_SEED", "PHASE6_SEEDS"];
/// Similarity, from 0 to 1, from which on a known name is suggested for an unknown one.
const SIMILAR: f64 = 0.85;

/// Token of our own services.
pub(crate) const INTERNAL_TOKEN: Setting = Setting {
    name: "PHASE6_INTERNAL_TOKEN",
    kind: SettingKind::Secret { min_length: InternalToken::MIN_LENGTH },
    about: "Token by which services sign whose requests they pass on; by default each process creates a random \
            one, and services in different processes treat each other as clients",
};

/// Settings of the process, whatever services it runs.
pub(crate) const HOST_SETTINGS: &[Setting] = &[INTERNAL_TOKEN];

/// Checks that every variable `PHASE6_*` of the environment is known, and that every known one is UTF-8.
///
/// `command` is the whole command line, whose options name their variables.
///
/// # Errors
///
/// Unknown variables, each with the known name that it resembles, and values that are not UTF-8: all of them.
pub fn check_environment(command: &clap::Command) -> Result<(), RunError> {
    let environment = Environment::of_process();
    let is_link = |name: &&str| is_service_link(name, environment.get(name).unwrap_or_default());
    let names = environment.names().filter(|name| !is_link(name));
    let known = known(command);
    let mut errors = unknown(names, &known);
    let unreadable = known.iter().filter(|name| environment.is_unreadable(name));
    errors.extend(unreadable.map(|name| format!("the value of {name} is not UTF-8")));
    if errors.is_empty() { Ok(()) } else { Err(RunError::Usage(errors.join("\n"))) }
}

/// Returns the names of all variables that the program reads.
fn known(command: &clap::Command) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    collect_variables(command, &mut known);
    known.extend(declared().map(|setting| setting.name.to_owned()));
    known
}

/// Names of the variables that services and every process declare, besides those of command-line options.
pub fn setting_names() -> impl Iterator<Item = &'static str> {
    declared().map(|setting| setting.name)
}

fn declared() -> impl Iterator<Item = &'static Setting> {
    HOST_SETTINGS.iter().chain(DEFINITIONS.iter().flat_map(|definition| definition.needs.settings))
}

fn collect_variables(command: &clap::Command, known: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(|argument| argument.get_env());
    known.extend(variables.map(|name| name.to_string_lossy().into_owned()));
    for subcommand in command.get_subcommands() {
        collect_variables(subcommand, known);
    }
}

/// Returns an error message for every unknown `PHASE6_*` name, in alphabetical order.
fn unknown<'a>(names: impl Iterator<Item = &'a str>, known: &BTreeSet<String>) -> Vec<String> {
    let is_unknown = |name: &&str| {
        name.starts_with(PREFIX)
            && !known.contains(*name)
            && !TEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let unknown: BTreeSet<&str> = names.filter(is_unknown).collect();
    let message = |name: &str| match nearest(name, known) {
        Some(nearest) => format!("{name} is not a setting; did you mean {nearest}?"),
        None => format!(
            "{name} is not a setting; `phase6 serve --help` and `phase6 serve NAME --help-settings` list all"
        ),
    };
    unknown.into_iter().map(message).collect()
}

/// True for variables that Kubernetes adds to pods for a Service whose name begins with `phase6-`, such as
/// `PHASE6_OPERATOR_SERVICE_HOST` and `PHASE6_OPERATOR_PORT_8080_TCP_ADDR`. The operator's pods have none, but
/// others may.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |name: &str| {
        name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || is_port(name)
}

/// Returns the known name that resembles `unknown` most, if any does.
fn nearest<'a>(unknown: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let without_prefix = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let unknown = without_prefix(unknown);
    let similarity = |name: &str| strsim::jaro_winkler(&without_prefix(name), &unknown);
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(nearest) > SIMILAR).then_some(nearest)
}

/// Returns a table of the settings of a service and of every process.
pub(crate) fn help_table(service: phase6_catalog::ServiceName) -> Table {
    let mut table = Table::new(&["NAME", "TYPE", "DEFAULT", "MEANING"]);
    for setting in definition(service).needs.settings.iter().chain(HOST_SETTINGS) {
        let default = setting.default_text().unwrap_or_else(|| "-".to_owned());
        table.row([setting.name.to_owned(), setting.kind.to_string(), default, setting.about.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{Args, Command};
    use phase6_chassis::Settings;

    use super::*;
    use crate::{serve::ServeOptions, up::UpOptions};

    fn command() -> Command {
        let serve = ServeOptions::augment_args(Command::new("serve"));
        Command::new("phase6").subcommand(serve).subcommand(UpOptions::augment_args(Command::new("up")))
    }

    fn errors(names: &[&str]) -> Vec<String> {
        unknown(names.iter().copied(), &known(&command()))
    }

    #[test]
    fn options_and_declared_settings_are_known() {
        let known = known(&command());
        for name in ["PHASE6_DATABASE_URL", "PHASE6_INTERNAL_TOKEN", "PHASE6_PORT", "UPSTREAM_DEADLINE_MS"] {
            assert!(known.contains(name), "{name}");
        }
        assert_eq!(errors(&["PHASE6_DATABASE_URL", "PHASE6_INTERNAL_TOKEN", "PATH"]), [""; 0]);
    }

    #[test]
    fn a_misspelled_variable_is_an_error_that_suggests_the_right_one() {
        let expected = [
            "PHASE6_DAILY_BUDGET_LIMIT is not a setting; did you mean DAILY_BUDGET_LIMIT?",
            "PHASE6_DATABSE_URL is not a setting; did you mean PHASE6_DATABASE_URL?",
            "PHASE6_REDIS is not a setting; did you mean PHASE6_REDIS_URL?",
        ];
        let names = ["PHASE6_REDIS", "PHASE6_DATABSE_URL", "PHASE6_DAILY_BUDGET_LIMIT"];
        assert_eq!(errors(&names), expected);
    }

    #[test]
    fn an_unknown_variable_that_resembles_none_names_the_lists() {
        let errors = errors(&["PHASE6_XYZ"]);
        assert!(errors[0].ends_with("`phase6 serve NAME --help-settings` list all"), "{errors:?}");
    }

    #[test]
    fn variables_of_kubernetes_and_of_the_tests_are_ignored() {
        for (name, value) in [
            ("PHASE6_OPERATOR_SERVICE_HOST", "10.96.0.7"),
            ("PHASE6_OPERATOR_SERVICE_PORT", "8080"),
            ("PHASE6_OPERATOR_SERVICE_PORT_METRICS", "8080"),
            ("PHASE6_OPERATOR_PORT", "tcp://10.96.0.7:8080"),
            ("PHASE6_OPERATOR_PORT_8080_TCP", "tcp://10.96.0.7:8080"),
            ("PHASE6_OPERATOR_PORT_8080_TCP_ADDR", "10.96.0.7"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        assert!(!is_service_link("PHASE6_BASE_PORT", "3000"), "a misspelt option");
        assert_eq!(errors(&["PHASE6_TEST_REDIS", "PHASE6_E2E_KUBECONFIG", "PHASE6_SEEDS"]), [""; 0]);
    }

    #[test]
    fn declared_settings_are_well_formed() {
        let mut declarations = BTreeMap::new();
        for setting in declared() {
            // Services may share a setting, with one meaning.
            let declaration = format!("{setting:?}");
            let earlier = declarations.insert(setting.name, declaration.clone());
            assert!(earlier.is_none_or(|earlier| earlier == declaration), "{} differs", setting.name);
            let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(setting.name.chars().all(is_name), "{}", setting.name);
            assert!(!setting.about.ends_with('.'), "{}: {}", setting.name, setting.about);
            let default = setting.default_text().map(|default| (setting.name, default));
            let settings = Settings::new(&[*setting], &default.into_iter().collect());
            assert!(settings.is_ok(), "the default of {} is not accepted", setting.name);
        }
    }
}
