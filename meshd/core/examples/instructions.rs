//! Plays one scene so many times, for valgrind to count: `cargo run --release -p meshd-core --example instructions -- SCENE TIMES`.
//! Without words it lists the scenes.
//!
//! Whoever counts plays each twice, a different number of times: the difference is the frames' alone.

#[path = "../benches/scenes/mod.rs"]
mod scenes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let [frames, upcalls, superframes] =
        [&scenes::FRAMES[..], &scenes::UPCALLS, &scenes::SUPERFRAMES];
    let all = [frames, upcalls, superframes].into_iter().flatten();
    let Some(name) = words.next() else {
        all.for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let times = words.next().and_then(|word| word.parse::<u32>().ok());
    let act = all
        .filter(|scene| scene.0 == name)
        .find_map(|(_, make)| make());
    let (Some(times), Some(mut act)) = (times, act) else {
        eprintln!("instructions: no scene {name:?}, or no number of times behind it");
        return ExitCode::FAILURE;
    };
    (0..times).for_each(|_| act());
    ExitCode::SUCCESS
}
