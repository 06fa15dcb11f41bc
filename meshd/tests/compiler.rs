//! The compiler's own process, with components that are made to hurt a compiler. `cargo test -p meshd --test compiler`.
#![allow(clippy::unwrap_used)]

use meshd::compiler::{CompileError, Compiler, Loader};
use meshd_plugin_host::{Engine, Instance, Limits, LoadError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MESHD: &str = env!("CARGO_BIN_EXE_meshd");

fn component(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let folder =
        std::env::var_os("MESHD_PLUGINS").map_or_else(|| target.join("plugins"), PathBuf::from);
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: run `cargo xtask plugins` first", path.display()))
}

fn leb(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (n & 0x7f) as u8;
        n >>= 7;
        out.push(if n == 0 { byte } else { byte | 0x80 });
        if n == 0 {
            return out;
        }
    }
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(body.len()), body].concat()
}

/// A component around core modules of these sections each.
fn around(modules: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0];
    for sections in modules {
        let module = [&[0, b'a', b's', b'm', 1, 0, 0, 0][..], sections].concat();
        out.extend(section(1, &module));
    }
    out
}

/// Functions `() -> ()` with these bodies, of instructions without the last `end`.
fn functions(count: usize, instructions: &[u8]) -> Vec<u8> {
    let body = [&[0][..], instructions, &[0x0b]].concat();
    let code = [leb(body.len()), body].concat().repeat(count);
    [
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[leb(count), vec![0; count]].concat()),
        section(10, &[leb(count), code].concat()),
    ]
    .concat()
}

/// What became of it; whatever it is, within the deadline, and without harm here.
fn outcome(what: &str, wasm: &[u8]) -> Result<usize, CompileError> {
    let started = Instant::now();
    let outcome = Compiler::of(Path::new(MESHD))
        .compile(wasm)
        .map(|code| code.len());
    println!(
        "{what}: {} bytes, {:?}: {outcome:?}",
        wasm.len(),
        started.elapsed()
    );
    assert!(
        started.elapsed() < Duration::from_secs(50),
        "{what}: {:?}",
        started.elapsed()
    );
    if let Err(error) = &outcome {
        let text = error.to_string();
        assert!(text.len() < 900 && !text.contains('\n'), "{what}: {text}");
    }
    outcome
}

#[test]
fn a_component_compiles_in_a_process_of_its_own_and_comes_back_from_the_cache() {
    let state = tempfile::tempdir().unwrap();
    let loader = || {
        let engine = Engine::new(Limits::default()).unwrap();
        Loader::new(engine, Compiler::of(Path::new(MESHD)), state.path())
    };
    let wasm = component("acl");
    let first = loader();
    let started = Instant::now();
    first.load(&wasm).unwrap();
    println!("compiled in the child: {:?}", started.elapsed());
    assert_eq!(first.compiler().runs(), 1);
    let second = loader();
    let started = Instant::now();
    let plugin = second.load(&wasm).unwrap();
    println!("from the cache: {:?}", started.elapsed());
    assert_eq!(second.compiler().runs(), 0);
    Instance::new(&plugin, "{}", 1).unwrap();
}

#[test]
fn load_time_bombs_end_in_one_sentence() {
    // Blocks in blocks.
    let deep = [[0x02, 0x40].repeat(300_000), vec![0x0b; 300_000]].concat();
    let _ = outcome("deep nesting", &around(&[functions(1, &deep)]));
    // One function of two million bytes: a chain of branches, which makes as many blocks.
    let branches = [
        &[0x02, 0x40][..],
        &[0x41, 0, 0x0d, 0].repeat(500_000),
        &[0x0b],
    ]
    .concat();
    let _ = outcome("a huge function", &around(&[functions(1, &branches)]));
    let _ = outcome("many functions", &around(&[functions(999_000, &[0x01])]));
    let tables = section(
        4,
        &[leb(100), [0x70, 0, 0xff, 0xff, 0xff, 0x7f].repeat(100)].concat(),
    );
    let _ = outcome("many tables", &around(&[tables]));
    // Two bytes of data, four gigabytes apart.
    let data = |at: &[u8]| [&[0, 0x41][..], at, &[0x0b, 1, 1]].concat();
    let far = [
        section(5, &[&[1, 0][..], &leb(65_536)].concat()),
        section(11, &[&[2][..], &data(&[0]), &data(&[0x7f])].concat()),
    ];
    let _ = outcome("data far apart", &around(&[far.concat()]));
    let many = around(&[functions(10_000, &[0x41, 0, 0x1a].repeat(80))]);
    let _ = outcome("much code", &many);
}

#[test]
fn what_is_no_component_costs_no_process() {
    let compiler = Compiler::of(Path::new("/nowhere/meshd"));
    assert!(matches!(
        compiler.compile(b"#!/bin/sh"),
        Err(CompileError::Load(LoadError::NotWasm { .. }))
    ));
    assert_eq!(compiler.runs(), 0);
    let error = compiler.compile(&around(&[])).unwrap_err().to_string();
    assert!(
        error.contains("/nowhere/meshd") && error.contains("cannot be started"),
        "{error}"
    );
}

#[test]
fn a_component_that_does_not_compile_is_refused_with_the_compilers_words() {
    let error = outcome("an unknown section", &around(&[section(99, &[])])).unwrap_err();
    assert!(
        matches!(error, CompileError::Load(LoadError::Compile { .. })),
        "{error:?}"
    );
}

/// What is left to the compiler before it reads the first byte.
#[test]
fn the_compiler_has_no_rights_no_files_and_no_network() {
    let mut child = Command::new(MESHD)
        .arg("compile-plugin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.id()));
    let end = Instant::now() + Duration::from_secs(20);
    let limits = loop {
        let limits = std::fs::read_to_string(proc("limits")).unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        if files.split_whitespace().nth(3) == Some("3") {
            break limits;
        }
        assert!(Instant::now() < end, "not confined: {limits}");
        std::thread::sleep(Duration::from_millis(1));
    };
    let status = std::fs::read_to_string(proc("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    for (name, most) in [
        ("Max processes", "0"),
        ("Max file size", "0"),
        ("Max core file size", "0"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let value = line.strip_prefix(name).unwrap().split_whitespace().next();
        assert_eq!(value, Some(most), "{line}");
    }
    if nix::unistd::geteuid().is_root() {
        assert_eq!(field("Uid:"), ["65534"; 4]);
        assert_eq!(field("Gid:"), ["65534"; 4]);
        assert!(field("Groups:").is_empty(), "{status}");
    }
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&component("acl"))
        .unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(
        done.status.success() && done.stdout.len() > 10_000,
        "{:?}",
        done.status
    );
}
