//! Advises a log and an unwanted number, and shows what a restart would be told.

use cradvise::{CR_ADV_IGNORE, CR_ADV_PRESERVE, cradvise, cradvise_query};
use std::fs::File;
use std::os::fd::AsRawFd;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: advise LOGFILE")?;
    let log = File::options().append(true).create(true).open(path)?;

    // The restarted tasks write to our log, whatever they had at its number.
    cradvise(log.as_raw_fd(), CR_ADV_PRESERVE | CR_ADV_IGNORE)?;
    // They had a device at 7 that is not here: they come back without it.
    cradvise(7, CR_ADV_IGNORE)?;

    println!("kept by: {}", cradvise::status());
    println!("advice of 7: {}", cradvise_query(7)?);
    for item in cradvise::advice()? {
        println!("{item}: {:?}", item.action);
    }

    // A number that is not open cannot be given away.
    let refused = cradvise(1000, CR_ADV_PRESERVE).unwrap_err();
    println!("1000: {refused}");
    Ok(())
}
