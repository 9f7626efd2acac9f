//! The folder of `--mail-templates`, read.
//!
//! Promise: a folder that cannot be read, and every file in it that cannot be used, is told before
//! anything is touched. It deliberately knows no mail: what a file may be, the templates say.

use std::path::Path;

use crate::fns::notices::templates::{TemplateFile, Templates, TemplatesError};

/// The built-in templates with the files of a folder in place of some or all of them.
///
/// # Errors
/// When the folder or a file cannot be read, or a template cannot be used.
pub fn read(folder: &Path, shop: &str) -> Result<Templates, TemplatesError> {
    let told =
        |error: std::io::Error| TemplatesError(vec![format!("{}: {error}", folder.display())]);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        files.push(TemplateFile { name, source });
    }
    Templates::with(files, shop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fns::notices::templates::SHOP;

    #[test]
    fn a_folder_that_is_not_there_or_has_what_is_no_mail_is_told() {
        let told = |folder: &Path| read(folder, SHOP).err().expect("refused").to_string();
        assert!(told(Path::new("/no/such/folder")).contains("/no/such/folder: "));
        // A folder of other files.
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(told(here).contains("Cargo.toml is no mail; there are "));
    }
}
