//! Prints the reference page of all settings; `cargo xtask crd` writes it to `docs/reference/settings.md`.

use phase6_runner::{output::print, settings_page};

fn main() -> Result<(), phase6_runner::RunError> {
    print(settings_page().trim_end())
}
