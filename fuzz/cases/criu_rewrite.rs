#[path = "criu_files.rs"]
#[allow(dead_code)]
mod criu_files;

use super::advised::{self, caller};
use ckpt_image::advice::{Advice, Strictness};
use ckpt_image::caller::NoPaths;
use ckpt_image::criu::{Image, Naming, rewrite};

/// The target.
pub fn run(input: &[u8]) {
    let Some((items, rest)) = advised::advice(input) else {
        return;
    };
    let files = criu_files::files(rest);
    let Ok(image) = Image::read(&files) else {
        return;
    };
    let _ = image.listing(&files);
    let _ = image.needs(&files);
    let advice = Advice {
        items,
        strictness: Strictness::Warn,
    };
    let paths = Box::new(NoPaths);
    let Ok(done) = rewrite(&image, &files, &advice, caller(), paths, Naming::Inherited) else {
        return;
    };
    if done.changes.is_empty() {
        assert!(done.files.is_empty(), "changed without advice");
    }
    // What was edited is an image, in which the same advice can be met again.
    let mut new = files.clone();
    new.extend(done.files);
    let image = Image::read(&new).expect("an image stays one");
    for change in &done.changes {
        let mut tasks = image.tasks.iter();
        let task = tasks
            .find(|task| task.pid == change.task)
            .expect("the task");
        let table = &image.tables[&task.table.expect("it had descriptors")];
        let open = table.slot(change.number).is_some();
        let dropped = change.fate == ckpt_image::plan::Fate::Drop;
        assert!(open != dropped, "{change}");
    }
}
