//! End to end, with a real criu: what becomes of the descriptors of a program
//! that is dumped and restored with advice, seen in /proc/PID/fd.

use harness::criu::{Outcome, World};

#[test]
fn log_moved_away() {
    let Some(world) = World::new() else { return };
    let log = world.path("log");
    let image = world
        .hold(&[
            &format!("1=append:{log}"),
            &format!("7=reg:{}", world.path("seven")),
            "count",
        ])
        .dump();
    std::fs::remove_file(world.path("seven")).unwrap();
    std::fs::rename(&log, world.path("old")).unwrap();
    let plain: Outcome = image.restore().run();
    assert_eq!(plain.status, Some(1));
    let out = world.open("out");
    let restored = image
        .restore()
        .advice("PRESERVE", "1")
        .advice("IGNORE", "7")
        .fd(1, &out)
        .run()
        .restored();
    eprintln!("{:?}", restored.links(restored.root));
    assert!(restored.shares(restored.root, 1, &out));
}
