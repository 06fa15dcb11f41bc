//! A real browser without a screen: Chromium in a namespace, told what to do by the DevTools protocol over two pipes.
//!
//! Owns the process and its profile. Keeps what the page complained of, so that a test can say that it complained of nothing.
//! Protocol: <https://chromedevtools.github.io/devtools-protocol/>, each message ended by a NUL byte.
#![allow(unsafe_code)]

use crate::lab::find;
use crate::netns;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Where Debian puts it, and others.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// For an answer of the browser.
const PATIENCE: Duration = Duration::from_secs(20);

/// One browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: PipeWriter,
    from: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// What the console of the page said, and what its policy stopped.
    pub complaints: Vec<String>,
    /// Bytes that came over the wire, heads included.
    pub transferred: u64,
}

/// True if there is one; says loudly that `claim` is not tested if not.
#[must_use]
pub fn is_there(claim: &str) -> bool {
    let there = NAMES.iter().any(|name| find(name).is_some());
    if !there {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {claim}: no Chromium; on Debian and its kin `apt-get install chromium`"
        );
    }
    there
}

impl Browser {
    /// Starts one in namespace `name`, with its profile in `folder`.
    ///
    /// # Errors
    /// If there is none, or it does not answer.
    pub fn start(name: &str, folder: &Path) -> Result<Self> {
        let program = NAMES
            .iter()
            .find_map(|name| find(name))
            .context("no Chromium")?;
        let (its_in, to) = std::io::pipe()?;
        let (from, its_out) = std::io::pipe()?;
        let mut command = netns::command(name, program)?;
        command
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", folder.display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let ends = (its_in.as_raw_fd(), its_out.as_raw_fd());
        // SAFETY: between fork and exec only fcntl and dup2 are called, which are async-signal-safe; both descriptors are open
        // until the child has started.
        unsafe {
            command.pre_exec(move || place(ends.0, ends.1));
        }
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        drop((its_in, its_out));
        let mut browser = Self {
            child,
            to,
            from: read(from),
            session: None,
            number: 0,
            complaints: Vec::new(),
            transferred: 0,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attached = browser.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        )?;
        let session = attached["sessionId"].as_str().context("no session")?;
        browser.session = Some(session.to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        // Told by the page itself, since not all of them reach the console.
        let watch = "addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))";
        browser.call(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": watch }),
        )?;
        Ok(browser)
    }

    /// Asks the browser for something.
    ///
    /// # Errors
    /// If it refuses, or says nothing.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes).context("the browser is gone")?;
        let end = Instant::now() + PATIENCE * crate::slow();
        loop {
            let told = match self
                .from
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(told) => told,
                Err(RecvTimeoutError::Timeout) => bail!("{method}: the browser does not answer"),
                Err(RecvTimeoutError::Disconnected) => bail!("{method}: the browser is gone"),
            };
            if told["id"] != self.number {
                self.note(&told);
                continue;
            }
            ensure!(told["error"].is_null(), "{method}: {}", told["error"]);
            return Ok(told["result"].clone());
        }
    }

    fn note(&mut self, told: &Value) {
        let params = &told["params"];
        match told["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(params.to_string()),
            "Log.entryAdded" if params["entry"]["level"] != "verbose" => {
                self.complaints.push(params["entry"].to_string());
            }
            "Runtime.consoleAPICalled"
                if params["type"] == "error" || params["type"] == "warning" =>
            {
                self.complaints.push(params["args"].to_string());
            }
            "Network.dataReceived" => {
                self.transferred += params["encodedDataLength"].as_u64().unwrap_or_default();
            }
            "Network.responseReceived" => {
                self.transferred += params["response"]["encodedDataLength"]
                    .as_u64()
                    .unwrap_or_default();
            }
            _ => {}
        }
    }

    /// Opens an address, and waits until it and all that belongs to it is there. While it loads, Chromium drops what it asked
    /// for when an address of the host is new (`ERR_NETWORK_CHANGED`): whoever sits before it loads the page again.
    ///
    /// # Errors
    /// As [`call`](Self::call); if it is not loaded in [`PATIENCE`].
    pub fn open(&mut self, url: &str) -> Result<()> {
        const CHANGED: &str = "ERR_NETWORK_CHANGED";
        for _ in 0..5 {
            let told = self.call("Page.navigate", json!({ "url": url }))?;
            let refused = told["errorText"].as_str().unwrap_or_default();
            ensure!(
                refused.is_empty() || refused.contains(CHANGED),
                "{url}: {refused}"
            );
            self.until("document.readyState === 'complete'", PATIENCE)?;
            let complaints = self.complaints.len();
            self.complaints.retain(|text| !text.contains(CHANGED));
            if refused.is_empty() && complaints == self.complaints.len() {
                return Ok(());
            }
            self.transferred = 0;
            // The same address but for what stands behind `#` would not be loaded anew.
            self.call("Page.navigate", json!({ "url": "about:blank" }))?;
        }
        bail!("{url}: {CHANGED} at each of five attempts")
    }

    /// What an expression comes to in the page; a promise is waited for.
    ///
    /// # Errors
    /// If it throws.
    pub fn eval(&mut self, expression: &str) -> Result<Value> {
        let told = self.call(
            "Runtime.evaluate",
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true }),
        )?;
        ensure!(
            told["exceptionDetails"].is_null(),
            "{expression}: {}",
            told["exceptionDetails"]
        );
        Ok(told["result"]["value"].clone())
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Errors
    /// If it is not within `limit`; the message has the page's text.
    pub fn until(&mut self, expression: &str, limit: Duration) -> Result<()> {
        let waited = crate::wait(expression, limit, || {
            Ok(self.eval(&format!("!!({expression})"))? == true)
        });
        if let Err(error) = waited {
            let text = self.eval("document.body.innerText")?;
            let complaints = self.complaints.join("\n");
            bail!("{error:#}\n{complaints}\nthe page: {text}");
        }
        Ok(())
    }

    /// Presses a key and lets it go: `Tab`, `Enter`, or a character.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            other => (0, Some(other)),
        };
        let mut down = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code });
        if let Some(text) = text {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", down)?;
        self.call(
            "Input.dispatchKeyEvent",
            json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }),
        )?;
        Ok(())
    }

    /// Gives the page a size in CSS pixels, and light or dark colours.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) -> Result<()> {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
        )?;
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        )?;
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helpers are in its process group.
        if let Ok(group) = i32::try_from(self.child.id()) {
            // SAFETY: kill has no memory effects; the child was not reaped yet, so the group is its own.
            unsafe {
                libc::kill(-group, libc::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// Puts the two ends where the browser looks for them: 3 to read, 4 to write.
fn place(its_in: RawFd, its_out: RawFd) -> std::io::Result<()> {
    // Away from both places first: one may stand in the other's.
    // SAFETY: plain descriptor calls, without memory effects.
    unsafe {
        let its_in = libc::fcntl(its_in, libc::F_DUPFD_CLOEXEC, 10);
        let its_out = libc::fcntl(its_out, libc::F_DUPFD_CLOEXEC, 10);
        if its_in < 0 || its_out < 0 || libc::dup2(its_in, 3) < 0 || libc::dup2(its_out, 4) < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

fn read(from: PipeReader) -> Receiver<Value> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let mut message = Vec::new();
            match from.read_until(0, &mut message) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            message.pop();
            if let Ok(message) = serde_json::from_slice(&message)
                && tell.send(message).is_err()
            {
                return;
            }
        }
    });
    told
}
