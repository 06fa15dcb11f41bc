//! Where components become machine code: in a child process with limits, and once per component and release.
//!
//! ```text
//!   component --Loader::load--> in the cache, by its digest, untouched? --yes--> Plugin (0.2 ms)
//!                                     | no
//!                                     v           stdin: component
//!                        meshd compile-plugin  <-----------------------  at most one at a time
//!                        (nobody, no files, no   ----------------------->  checked, kept in the cache
//!                         network, rlimits)      stdout: machine code
//!                                     | too long, too much memory, crashed: one sentence, nothing else happened
//! ```
//!
//! A compiler's time and memory are the component's choice, so none of it happens in the daemon. Owns the child's start, its
//! deadline and what its end means; the child's own half is `compiler/child.rs`, the kept code `compiler/cache.rs`. Refuses to
//! run machine code from anywhere else: what comes out of the child or out of the cache with a right MAC, and no file. Whose
//! components are taken at all is asked first (`compiler/trust.rs`), at each start anew.
#![allow(unsafe_code)] // Machine code is run because this module knows who made it.

pub(crate) mod cache;
pub(crate) mod child;
mod trust;

pub use trust::{Trust, TrustError};

use crate::coded::Coded as _;
use crate::telemetry::{self, operation};
use cache::Cache;
use meshd_core::code::ErrorCode;
use meshd_plugin_host::{Digest, Engine, LoadError, Plugin, precheck};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Hidden command by which this program is its own compiler.
pub(crate) const SUBCOMMAND: &str = "compile-plugin";
/// From the start of the child to its end. Below the API's 60 s, so that who asked hears why.
const DEADLINE: Duration = Duration::from_secs(40);
/// Largest machine code that is taken from the child, in bytes: some eight times the largest component.
pub(crate) const MAX_COMPILED: usize = 256 << 20;
/// What is read of the child's words, in bytes; the rest is thrown away.
const WORDS_MAX: u64 = 4 << 10;
/// Between two looks whether a child that closed its pipes has ended.
const LOOK: Duration = Duration::from_millis(2);

/// Why there is no machine code for a component.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It is no policy component.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The child cannot be run.
    #[error("the compiler cannot be started ({program}): {source}. It is this program itself; is its file still there, and are there processes to spare?", program = program.display())]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// How that failed.
        source: io::Error,
    },
    /// Over the deadline or the processor time.
    #[error(
        "compiling the component was stopped, for it takes too long: {} s of processor time and one more for each MiB are allowed, and {} s in all. Build it in release mode and look for huge functions, which generated code often has",
        child::CPU_S,
        DEADLINE.as_secs()
    )]
    TooLong,
    /// Over the memory limit.
    #[error(
        "compiling the component needs more than {} MiB of memory, which is the limit. Build it in release mode and look for huge functions or tables",
        child::MEMORY >> 20
    )]
    Memory,
    /// More machine code than anybody needs.
    #[error(
        "the component becomes more than {} MiB of machine code, which is the limit. Leave out what a policy does not need",
        MAX_COMPILED >> 20
    )]
    TooMuch,
    /// Its signatures are wrong, or not those that this node wants.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The compiler failed, not the component; most likely the component was made for that.
    #[error(
        "the compiler broke off at this component ({how}){said}. The daemon goes on; do not trust the component, and report it if it is your own"
    )]
    Crashed {
        /// The signal or exit code.
        how: String,
        /// Its last words, with a colon before them, or nothing.
        said: String,
    },
}

/// Has components compiled, one at a time.
#[derive(Debug)]
pub struct Compiler {
    /// `None`: in this process, for tests of what is around it.
    program: Option<PathBuf>,
    at_work: Mutex<()>,
    runs: AtomicU64,
}

impl Compiler {
    /// By `program`, which is some meshd of this release.
    #[must_use]
    pub fn of(program: &Path) -> Self {
        Self {
            program: Some(program.to_owned()),
            at_work: Mutex::default(),
            runs: AtomicU64::default(),
        }
    }

    /// By this program itself. The link names the running file, also when an upgrade has put another in its place.
    #[must_use]
    pub fn itself() -> Self {
        Self::of(Path::new("/proc/self/exe"))
    }

    /// In this process, without limits.
    #[cfg(test)]
    pub(crate) fn here() -> Self {
        Self {
            program: None,
            ..Self::itself()
        }
    }

    /// How many components it was given since it was made.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// The machine code of `wasm`, for [`Plugin::from_compiled`]. Blocks for as long as that takes, which is bounded.
    ///
    /// # Errors
    /// What is wrong with the component, or which limit it met.
    pub fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
        precheck(wasm)?;
        // So that a hundred requests at once have one compiler's memory, not a hundred's.
        let _turn = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        self.runs.fetch_add(1, Ordering::Relaxed);
        let Some(program) = &self.program else {
            return Ok(meshd_plugin_host::precompile(wasm)?);
        };
        run(program, wasm)
    }
}

/// What came out of a child.
struct Ended {
    /// `None`: more than [`MAX_COMPILED`].
    code: Option<Vec<u8>>,
    words: String,
    status: ExitStatus,
    killed: bool,
}

fn run(program: &Path, wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    let start = |source| CompileError::Start {
        program: program.to_owned(),
        source,
    };
    let child = Command::new(program)
        .arg(SUBCOMMAND)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    judge(attend(child, wasm, DEADLINE).map_err(start)?)
}

/// Feeds the child and reads it until it ends, or kills it at the deadline.
fn attend(mut child: Child, wasm: &[u8], deadline: Duration) -> io::Result<Ended> {
    let until = Instant::now() + deadline;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A child that does not read is one that ends; its own words say why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(wasm)));
        let words = scope.spawn(move || {
            let mut words = Vec::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.by_ref().take(WORDS_MAX).read_to_end(&mut words);
                let _ = io::copy(&mut stderr, &mut io::sink());
            }
            String::from_utf8_lossy(&words).trim().to_owned()
        });
        let (tell, told) = mpsc::channel();
        let code = scope.spawn(move || {
            let mut code = Vec::new();
            let most = MAX_COMPILED as u64 + 1;
            let read = stdout.map(|stdout| stdout.take(most).read_to_end(&mut code));
            // The pipe is closed by now: a child that still writes gets an error.
            let _ = tell.send(());
            match read {
                Some(Ok(_)) if code.len() <= MAX_COMPILED => Some(code),
                Some(Ok(_)) => None,
                _ => Some(Vec::new()),
            }
        });
        let mut killed = told
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .is_err();
        let status = loop {
            if killed {
                kill(&child);
                break child.wait()?;
            }
            if let Some(status) = child.try_wait()? {
                break status;
            }
            killed = Instant::now() >= until;
            std::thread::sleep(LOOK);
        };
        Ok(Ended {
            code: code.join().unwrap_or_default(),
            words: words.join().unwrap_or_default(),
            status,
            killed,
        })
    })
}

/// It and whatever it started. That is nothing, for it cannot; but who waits for its pipes must be sure.
fn kill(child: &Child) {
    // A process id fits.
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    // It may have ended by now.
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
}

fn judge(ended: Ended) -> Result<Vec<u8>, CompileError> {
    let Ended {
        code,
        words,
        status,
        killed,
    } = ended;
    let Some(code) = code else {
        return Err(CompileError::TooMuch);
    };
    let no_memory = [
        "memory allocation of",
        "out of memory",
        "Cannot allocate memory",
    ]
    .iter()
    .any(|sign| words.contains(sign));
    match (status.code(), status.signal()) {
        (Some(0), _) if !code.is_empty() => Ok(code),
        _ if killed => Err(CompileError::TooLong),
        (_, Some(libc::SIGXCPU)) => Err(CompileError::TooLong),
        _ if no_memory => Err(CompileError::Memory),
        // Not by us: by the kernel, for memory. The child offers itself as the first to go.
        (_, Some(libc::SIGKILL)) => Err(CompileError::Memory),
        (Some(child::REFUSED), _) => Err(LoadError::Compile { reason: words }.into()),
        (code, signal) => Err(CompileError::Crashed {
            how: match (code, signal) {
                (_, Some(signal)) => format!("signal {signal}"),
                (Some(code), _) => format!("exit code {code}"),
                (None, None) => "no exit code".to_owned(),
            },
            said: match words.lines().find(|line| !line.is_empty()) {
                Some(line) => format!(": {}", line.chars().take(300).collect::<String>()),
                None => String::new(),
            },
        }),
    }
}

/// Makes plugins of components: from the cache, else by the compiler.
pub struct Loader {
    engine: Engine,
    compiler: Compiler,
    cache: Option<Cache>,
    trust: Trust,
}

impl Loader {
    /// With the cache in `state`. Where that cannot be had, the log says so and everything is compiled each time.
    #[must_use]
    pub fn new(engine: Engine, compiler: Compiler, state: &Path) -> Self {
        let cache = Cache::open(state, meshd_plugin_host::compatibility(&engine));
        let cache = cache
            .inspect_err(|e| tracing::warn!(code = %ErrorCode::PluginCacheFailed, error = %e, "compiled plugins are not kept; each start compiles all of them"))
            .ok();
        Self {
            engine,
            compiler,
            cache,
            trust: Trust::default(),
        }
    }

    /// The same, for plugins that `trust` admits.
    #[must_use]
    pub fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Without a cache.
    #[must_use]
    pub fn uncached(engine: Engine, compiler: Compiler) -> Self {
        Self {
            engine,
            compiler,
            cache: None,
            trust: Trust::default(),
        }
    }

    /// The compiler, to see what it had to do.
    #[must_use]
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// A plugin of the component.
    ///
    /// # Errors
    /// What is wrong with it, or which limit it met.
    pub fn load(&self, wasm: &[u8]) -> Result<Plugin, CompileError> {
        let span = operation!("load plugin", bytes = wasm.len());
        let loaded: Result<Plugin, CompileError> = span.in_scope(|| {
            precheck(wasm)?;
            let signers = self.trust.admit(wasm)?;
            Ok(self.compiled(wasm)?.signed_by(signers))
        });
        if let Err(error) = &loaded {
            telemetry::failed(&span, error.code(), &error.to_string());
        }
        loaded
    }

    fn compiled(&self, wasm: &[u8]) -> Result<Plugin, CompileError> {
        let digest = Digest::of(wasm);
        if let Some(code) = self.cache.as_ref().and_then(|cache| cache.get(digest)) {
            // SAFETY: the MAC says that this node's daemon wrote these bytes under this name, and it writes only what its
            // compiler made; the name has the component and all that machine code depends on.
            match unsafe { Plugin::from_compiled(&self.engine, wasm, &code) } {
                Err(LoadError::Stale { reason }) => {
                    tracing::info!(digest = %digest.short(), %reason, "a compiled plugin is stale and is compiled again");
                }
                loaded => return Ok(loaded?),
            }
        }
        let started = Instant::now();
        let code = self.compiler.compile(wasm)?;
        tracing::info!(digest = %digest.short(), bytes = wasm.len(), ms = started.elapsed().as_millis(), "a plugin was compiled");
        // SAFETY: it comes from the compiler.
        let plugin = unsafe { Plugin::from_compiled(&self.engine, wasm, &code) }?;
        if let Some(cache) = &self.cache {
            cache.put(digest, &code);
        }
        Ok(plugin)
    }

    /// Forgets the machine code of all other components, and of other releases.
    pub fn sweep(&self, keep: &BTreeSet<Digest>) {
        if let Some(cache) = &self.cache {
            cache.sweep(keep);
        }
    }
}

impl core::fmt::Debug for Loader {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Loader")
            .field("compiler", &self.compiler)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("/bin/sh")
            .args(["-c", script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn after(script: &str) -> Result<Vec<u8>, CompileError> {
        judge(attend(shell(script), &[7; 1 << 20], Duration::from_secs(5)).unwrap())
    }

    #[test]
    fn a_child_that_hangs_is_killed_at_its_deadline_whatever_it_does_with_its_pipes() {
        for script in [
            "exec sleep 60",
            "exec sleep 60 >&- 2>&- <&-",
            "yes >&2 & yes | cat",
        ] {
            let started = Instant::now();
            let ended = attend(shell(script), b"x", Duration::from_millis(200)).unwrap();
            assert!(
                ended.killed && started.elapsed() < Duration::from_secs(5),
                "{script}"
            );
            assert!(
                matches!(judge(ended), Err(CompileError::TooLong)),
                "{script}"
            );
        }
    }

    #[test]
    fn every_end_of_a_child_has_its_own_sentence() {
        assert_eq!(after("cat >/dev/null; echo code").unwrap(), b"code\n");
        for (script, words) in [
            (
                "echo 'bad section' >&2; exit 3",
                "does not compile: bad section",
            ),
            (
                "echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$",
                "more than 2048 MiB",
            ),
            ("kill -KILL $$", "more than 2048 MiB"),
            ("kill -XCPU $$", "takes too long"),
            ("kill -SEGV $$", "broke off at this component (signal 11)."),
            (
                "echo \"thread 'main' panicked\" >&2; exit 101",
                "(exit code 101): thread 'main' panicked",
            ),
            ("exit 0", "broke off"),
        ] {
            let error = after(script).unwrap_err().to_string();
            assert!(error.contains(words), "{script}: {error}");
        }
    }

    #[test]
    fn a_child_that_talks_without_end_is_cut_short() {
        let endless = attend(shell("exec cat /dev/zero"), b"", DEADLINE).unwrap();
        assert!(matches!(judge(endless), Err(CompileError::TooMuch)));
        let wordy = shell("head -c 9000000 /dev/zero | tr '\\0' x >&2; exit 3");
        let ended = attend(wordy, b"", DEADLINE).unwrap();
        assert_eq!((ended.words.len(), ended.status.code()), (4096, Some(3)));
    }
}
