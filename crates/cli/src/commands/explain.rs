//! `phase6 explain`: every effective setting and its origin.

use phase6_manifest::{Origin, settings};
use phase6_runner::{RunError, lines, load, output::print, table::Table};
use serde_json::Value;

use crate::args::Explain;

pub(crate) fn run(options: &Explain) -> Result<(), RunError> {
    let manifests = load(&options.files).map_err(|errors| RunError::Failed(lines(&errors)))?;
    let selected: Vec<_> = manifests
        .iter()
        .filter(|manifest| options.name.as_deref().is_none_or(|name| name == manifest.name))
        .collect();
    if selected.is_empty() {
        let names: Vec<_> = manifests.iter().map(|manifest| manifest.name.as_str()).collect();
        let name = options.name.as_deref().unwrap_or_default();
        return Err(RunError::Failed(format!("no resource is named {name}; found: {}", names.join(", "))));
    }
    for (number, manifest) in selected.iter().enumerate() {
        if number > 0 {
            print("")?;
        }
        let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
        for setting in settings(manifest) {
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
        let heading = format_args!("{} (document {} of {})", manifest.name, manifest.index, manifest.file);
        print(format_args!("{heading}\n{table}"))?;
    }
    Ok(())
}
