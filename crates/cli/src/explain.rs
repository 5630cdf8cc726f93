//! `phase6 explain`: every setting in force, and where it comes from.

use phase6_crds::{Origin, settings};
use serde_json::Value;

use crate::{args::Explain, ending::Ending, files, output::print, table::Table};

pub(crate) fn run(arguments: &Explain) -> Result<(), Ending> {
    let documents =
        files::load(&arguments.files).map_err(|faults| Ending::Findings(files::lines(&faults)))?;
    let wanted: Vec<_> = documents
        .iter()
        .filter(|document| arguments.name.as_deref().is_none_or(|name| name == document.name()))
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = documents.iter().map(phase6_crds::Document::name).collect();
        let name = arguments.name.as_deref().unwrap_or_default();
        return Err(Ending::Findings(format!(
            "no resource is called {name}; there are {}",
            names.join(", ")
        )));
    }
    for (number, document) in wanted.iter().enumerate() {
        if number > 0 {
            print("")?;
        }
        let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
        for setting in settings(document) {
            let value = match &setting.value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let origin = match setting.origin {
                Origin::File(line) => format!("line {line}"),
                Origin::Default => "default".to_owned(),
            };
            table.row([setting.field, value, origin]);
        }
        let head = format_args!("{} (document {} of {})", document.name(), document.index, document.file);
        print(format_args!("{head}\n{table}"))?;
    }
    Ok(())
}
