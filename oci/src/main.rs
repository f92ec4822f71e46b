//! ckptadv-oci(8): stands in front of an OCI runtime, and turns the annotations of a container into advice for its
//! checkpoint and restore.
//!
//! * [`invocation`]: what the runtime is called to do;
//! * [`bundle`]: what config.json says of the container;
//! * [`annotations`]: the advice in it, judged: it is not trusted;
//! * [`administrator`]: what /etc/ckptadv/oci.toml says, which is;
//! * [`runtime`]: the real runtime, and the environment that it gets;
//! * [`log`]: where the library says what it does.

mod administrator;
mod annotations;
mod bundle;
mod invocation;
mod log;
mod refusal;
mod runtime;

use administrator::Administrator;
use annotations::Moment;
use bundle::Bundle;
use invocation::{Invocation, Verb};
use refusal::Refusal;
use runtime::Runtime;
use std::convert::Infallible;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let invocation = Invocation::read(arguments.collect());
    let Err(refusal) = run(&name, &invocation);
    refusal.say(&invocation);
    ExitCode::FAILURE
}

/// Becomes the real runtime.
fn run(name: &OsString, invocation: &Invocation) -> Result<Infallible, Refusal> {
    let administrator = Administrator::read(invocation.config.as_deref())?;
    let runtime = Runtime::find(name, &administrator)?;
    let (moment, bundle) = match &invocation.verb {
        Verb::Other => return Err(runtime.become_it(&invocation.arguments, Vec::new())),
        Verb::Doubtful(option) => return Err(Refusal::doubtful(option)),
        Verb::Restore { bundle } => (Moment::Restore, bundle.clone()),
        Verb::Checkpoint { container, .. } => {
            let bundle = runtime.bundle_of(&invocation.globals, container)?;
            (Moment::Checkpoint, bundle)
        }
    };
    let bundle = Bundle::read(&bundle)?;
    let advice = annotations::judge(&bundle, moment, &administrator.allow)?;
    let mut environment = Vec::new();
    if !advice.is_empty() {
        environment = runtime::environment(advice, &administrator)?;
        if let Verb::Checkpoint { work, .. } = &invocation.verb
            && let Some(work) = work
            && administrator.log_file.is_none()
        {
            environment.extend(log::beside_that_of_criu(work));
        }
    }
    Err(runtime.become_it(&invocation.arguments, environment))
}
