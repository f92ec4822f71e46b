//! File tables that several tasks share.

use crate::Error;
use crate::advice::{Advice, TaskSelector};

/// CRIU dumps and restores one table for all the tasks that share it: advice for
/// one of them alone is refused.
///
/// * `tasks`: those that share the table; `pids`: with their threads.
pub(super) fn refuse_part(
    advice: &Advice,
    root: i32,
    tasks: &[i32],
    pids: &[i32],
) -> Result<(), Error> {
    if tasks.len() < 2 {
        return Ok(());
    }
    for item in &advice.items {
        let task = match item.task {
            Some(TaskSelector::Pid(pid)) if pids.contains(&pid) => pid,
            Some(TaskSelector::Root) if tasks.contains(&root) => root,
            _ => continue,
        };
        let tasks: Vec<String> = tasks.iter().map(i32::to_string).collect();
        return Err(Error::unsupported(
            format!("{item}: task {task}"),
            format!(
                "its file table is shared by the tasks {}, and advice for one of them alone \
                 cannot be done: leave the task out, or write \"*:\" for all",
                tasks.join(", ")
            ),
        ));
    }
    Ok(())
}
