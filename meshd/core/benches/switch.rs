//! What a frame costs between two sockets, by the clock: `cargo bench -p meshd-core`.
//!
//! `cargo xtask instructions` counts instructions of the same scenes, which is what is compared from change to change.

mod scenes;

use criterion::{Criterion, criterion_group, criterion_main};

fn play(criterion: &mut Criterion) {
    let [frames, upcalls, superframes] =
        [&scenes::FRAMES[..], &scenes::UPCALLS, &scenes::SUPERFRAMES];
    for (name, make) in [frames, upcalls, superframes].into_iter().flatten() {
        let Some(mut act) = make() else {
            panic!("{name}: the scene is not as it was written");
        };
        criterion.bench_function(name, |bencher| bencher.iter(&mut act));
    }
}

criterion_group!(all, play);
criterion_main!(all);
