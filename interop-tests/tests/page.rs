//! The web page of `meshd ui`, in a real browser beside real daemons.

use anyhow::{Context, Result, ensure};
use interop_tests::browser::{self, Browser};
use interop_tests::lab::{Lab, LabSpec, scene};
use interop_tests::netns::{self, ip};
use interop_tests::node::Node;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

const SUBNET: [&str; 2] = ["--subnet", "10.10.0.0/24"];
const SOON: Duration = Duration::from_secs(10);
const VIEWS: [&str; 10] = [
    "",
    "peers",
    "networks",
    "ports",
    "endpoints",
    "flows",
    "drops",
    "plugins",
    "trace",
    "events",
];

/// `meshd ui`, while it runs.
struct Ui {
    child: Child,
    url: String,
}

impl Ui {
    fn start(node: &Node) -> Result<Self> {
        let mut child = node
            .command()?
            .args(["ui", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("start meshd ui")?;
        let mut url = String::new();
        let out = child.stdout.take().context("no output")?;
        BufReader::new(out).read_line(&mut url)?;
        let url = url.trim().to_owned();
        let ui = Self { child, url };
        ensure!(ui.url.starts_with("http://127.0.0.1:"), "{:?}", ui.url);
        Ok(ui)
    }

    fn token(&self) -> &str {
        self.url.split("#token=").nth(1).unwrap_or_default()
    }

    fn address(&self) -> &str {
        self.url["http://".len()..]
            .split('/')
            .next()
            .unwrap_or_default()
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two hosts that trust their wire, a network, a port on each; the page of host 0 in a browser there.
fn on_screen(claim: &str, body: impl FnOnce(&Lab, &mut Browser) -> Result<()>) {
    if !browser::is_there(claim) {
        return;
    }
    scene(LabSpec::hosts(2).trusted(), |lab| {
        lab.mesh()?;
        lab.network("lan", &SUBNET)?;
        let node = lab.node(0);
        node.attach("lan", lab.container(0, 0), &["--name", "web"])?;
        let there = lab
            .node(1)
            .attach("lan", lab.container(1, 0), &["--name", "db"])?;
        node.learns(&there.mac)?;
        node.waits_for_kernel_path("b", true, SOON)?;
        let ui = Ui::start(node)?;
        let profile = node.state.with_file_name("browser");
        let mut browser = Browser::start(&node.netns, &profile)?;
        browser.look(1280, 900, "light")?;
        browser.open(&ui.url)?;
        browser.until(
            "document.querySelector('.statement:not([data-tone=idle])')",
            SOON,
        )?;
        browser.until("document.querySelector('.map a.node')", SOON)?;
        body(lab, &mut browser)?;
        // What is on its way is heard first.
        browser.eval("new Promise((done) => setTimeout(done, 100))")?;
        ensure!(
            browser.complaints.is_empty(),
            "the page complained: {}",
            browser.complaints.join("\n")
        );
        Ok(())
    });
}

fn show(browser: &mut Browser, view: &str) -> Result<()> {
    browser.eval(&format!("location.hash = '#/{view}'"))?;
    let name = if view.is_empty() { "overview" } else { view };
    browser.until(
        &format!("document.getElementById('main').dataset.view === '{name}'"),
        SOON,
    )
}

/// Has the page note the time at which `sight` is there first.
fn watch_for(browser: &mut Browser, sight: &str) -> Result<()> {
    browser.eval(&format!(
        "window.seen = 0; window.watcher?.disconnect(); \
         window.watcher = new MutationObserver(() => {{ if (!window.seen && ({sight})) window.seen = Date.now(); }}); \
         window.watcher.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }}); 0"
    ))?;
    Ok(())
}

/// The page saw it within a second after the newest event of that kind that fits.
fn seen_in_time(
    browser: &mut Browser,
    node: &Node,
    kind: &str,
    fits: impl Fn(&serde_json::Value) -> bool,
) -> Result<()> {
    browser.until("window.seen", Duration::from_secs(20))?;
    let seen = browser.eval("window.seen")?.as_u64().context("no time")?;
    let events = node.events(kind)?;
    let event = events
        .iter()
        .rfind(|event| fits(event))
        .with_context(|| format!("no {kind} among {events:?}"))?;
    let told = event["at_ms"].as_u64().context("no time")?;
    let late = seen.saturating_sub(told);
    let _ = writeln!(
        std::io::stderr(),
        "the page shows {kind} {late} ms after the event"
    );
    ensure!(
        late <= 1000 * u64::from(interop_tests::slow()),
        "{kind} was seen {late} ms late"
    );
    Ok(())
}

#[test]
fn the_page_loads_without_complaint_and_shows_a_failed_path_within_a_second() {
    on_screen("the page in a browser", |lab, browser| {
        let node = lab.node(0);
        let _ = writeln!(
            std::io::stderr(),
            "{} bytes transferred until all is shown",
            browser.transferred
        );
        ensure!(browser.transferred > 20_000, "the count is wrong");
        ensure!(
            browser.transferred <= 300 << 10,
            "{} bytes for the page",
            browser.transferred
        );
        // The token leaves the address line.
        ensure!(browser.eval("location.href.includes('token')")? == false);
        ensure!(
            browser
                .eval("document.title")?
                .as_str()
                .is_some_and(|title| title.contains("a · lab"))
        );
        browser.until("document.querySelector('.map .line.kernel')", SOON)?;

        // A path that loses is drawn as such before it is given up: that is no sight of its end yet.
        watch_for(
            browser,
            "document.querySelector('.map .line') && !document.querySelector('.map .line.kernel, .map .line.warn')",
        )?;
        for host in 0..2 {
            lab.deafen(host, "udp dport 4789")?;
        }
        seen_in_time(browser, node, "path", |event| event["from"] == "up")?;
        ensure!(browser.eval("document.querySelector('.map .line.kernel') === null")? == true);

        watch_for(browser, "document.querySelector('.map a.node.bad')")?;
        ip(&format!("-n {} link set und0 down", lab.hosts[1].netns))?;
        seen_in_time(browser, node, "peer-down", |_| true)?;
        browser.until("document.querySelector('.statement[data-tone=bad]')", SOON)?;
        browser.until(
            "document.querySelector('.troubles').textContent.includes('b is not reached')",
            SOON,
        )?;

        // And a daemon that is gone is told, and found again.
        ip(&format!("-n {} link set und0 up", lab.hosts[1].netns))?;
        browser.until(
            "document.querySelector('.map a.node.good')",
            Duration::from_secs(30),
        )?;
        node.kill();
        browser.until(
            "document.getElementById('live').dataset.state === 'bad'",
            SOON,
        )?;
        node.run()?;
        browser.until(
            "document.getElementById('live').dataset.state === 'good'",
            Duration::from_secs(20),
        )?;
        // A browser tells of each answer that is no success: that was the daemon's absence.
        browser
            .complaints
            .retain(|text| !text.contains("503") && !text.contains("net::ERR_"));
        Ok(())
    });
}

#[test]
fn a_trace_is_asked_by_keyboard_alone_and_its_route_drawn() {
    on_screen("the page by keyboard", |lab, browser| {
        // Everything in sight is reached by Tab, in the order in which it is read.
        let links =
            browser.eval("[...document.querySelectorAll('#tabs a')].map((a) => a.textContent)")?;
        ensure!(
            links.as_array().map(Vec::len) == Some(VIEWS.len()),
            "{links}"
        );
        let want = browser.eval(
            "window.reached = new Set(); document.addEventListener('focusin', (e) => window.reached.add(e.target)); \
             document.querySelectorAll('a[href],button,input,select,summary').length",
        )?;
        for _ in 0..want.as_u64().unwrap_or_default() + 3 {
            browser.press("Tab")?;
        }
        let missed = browser.eval(
            "[...document.querySelectorAll('a[href],button,input,select,summary')] \
               .filter((e) => e.checkVisibility() && !window.reached.has(e)).map((e) => e.outerHTML)",
        )?;
        // What was drawn anew meanwhile is another element of the same name.
        ensure!(
            missed.as_array().is_some_and(|missed| missed.len() <= 1),
            "not reached: {missed}"
        );

        // To the view of traces, as a person without a mouse goes there.
        browser.eval("document.activeElement.blur()")?;
        tab_to(browser, "e.dataset.view === 'trace'")?;
        browser.press("Enter")?;
        browser.until(
            "document.querySelector('#t-packet')?.value.startsWith('tcp 10.10.0.')",
            SOON,
        )?;
        tab_to(browser, "e.id === 't-packet'")?;
        browser.press("Enter")?;
        browser.until("document.querySelector('.answer svg.route')", SOON)?;
        let route =
            browser.eval("document.querySelector('svg.route').getAttribute('aria-label')")?;
        let route = route.as_str().unwrap_or_default();
        ensure!(route.contains("port 1") && route.contains("→ b"), "{route}");
        ensure!(browser.eval("document.querySelectorAll('.steps li').length > 2")? == true);
        ensure!(browser.eval("document.querySelector('.verdict').dataset.tone")? == "good");

        // A packet that is none says where it is wrong.
        browser.eval("document.querySelector('#t-packet').value = 'tcp nonsense'; document.querySelector('form .go').focus()")?;
        browser.press("Enter")?;
        browser.until("document.querySelector('.refusal')", SOON)?;
        browser.complaints.retain(|text| !text.contains("400"));

        for view in VIEWS {
            show(browser, view)?;
            for (width, scheme) in [(390, "dark"), (1280, "light")] {
                browser.look(width, 844, scheme)?;
                let wide = browser.eval("document.documentElement.scrollWidth - innerWidth")?;
                ensure!(
                    wide.as_i64().is_some_and(|wide| wide <= 0),
                    "{view:?} is {wide} pixels wider than {width}"
                );
            }
        }
        browser.look(1280, 900, "dark")?;
        let dark = browser.eval("getComputedStyle(document.documentElement).backgroundColor")?;
        browser.look(1280, 900, "light")?;
        let light = browser.eval("getComputedStyle(document.documentElement).backgroundColor")?;
        ensure!(dark != light, "{dark}");

        // Text of others stays text.
        let evil = lab.add_container(0, "x")?;
        lab.node(0).ok(&[
            "attach",
            "lan",
            "--netns",
            &evil,
            "--ifname",
            "<img>",
            "--name",
            "evil",
            "--label",
            "note=<script>window.hit=1</script>",
        ])?;
        show(browser, "ports")?;
        browser.until(
            "document.querySelector('main').textContent.includes('<script>window.hit=1</script>')",
            SOON,
        )?;
        browser.until(
            "document.querySelector('main').textContent.includes('<img>')",
            SOON,
        )?;
        ensure!(browser.eval("window.hit === undefined && document.querySelectorAll('main script, main img').length === 0")? == true);
        Ok(())
    });
}

/// Presses Tab until the element with the focus fits.
fn tab_to(browser: &mut Browser, fits: &str) -> Result<()> {
    for _ in 0..80 {
        browser.press("Tab")?;
        if browser.eval(&format!("((e) => {fits})(document.activeElement)"))? == true {
            return Ok(());
        }
    }
    anyhow::bail!("80 times Tab do not lead to an element where {fits}");
}

/// Sends `head` with an empty line; the status and all that was answered.
fn ask(ui: &Ui, node: &Node, head: &str) -> Result<(u16, String)> {
    netns::within(&node.netns, || {
        let mut stream = TcpStream::connect(ui.address())?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(format!("{head}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no HTTP: {answer:?}"))?;
        Ok((status, answer))
    })
}

#[test]
fn only_who_has_the_token_reads_by_the_page_and_nobody_changes() {
    scene(LabSpec::hosts(1), |lab| {
        let node = lab.node(0);
        let told = node.refused(&["ui", "--port", "0"])?;
        ensure!(told.contains("meshd run"), "{told}");
        lab.mesh()?;
        let ui = Ui::start(node)?;
        let host = format!("host: {}", ui.address());
        let bearer = format!("authorization: Bearer {}", ui.token());
        let get = |path: &str, more: &[&str]| {
            let head = format!("GET {path} HTTP/1.1\r\n{}", more.join("\r\n"));
            ask(&ui, node, &head)
        };
        ensure!(get("/v1/status", &[&host, &bearer])?.0 == 200);
        ensure!(get("/v1/status", &[&host])?.0 == 401);
        ensure!(get("/v1/status", &[&host, "authorization: Bearer x"])?.0 == 401);
        ensure!(get("/v1/status", &["host: evil.example", &bearer])?.0 == 403);
        ensure!(
            get(
                "/v1/status",
                &[&host, &bearer, "origin: http://evil.example"]
            )?
            .0 == 403
        );
        ensure!(get("/", &["host: evil.example"])?.0 == 403);

        let (status, page) = get("/", &[&host])?;
        ensure!(status == 200 && page.contains("<!doctype html>"));
        let policy = page
            .lines()
            .find_map(|line| line.strip_prefix("content-security-policy: "))
            .context("no policy")?;
        ensure!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        for header in [
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            ensure!(page.contains(header), "{page}");
        }
        let etag = page
            .lines()
            .find_map(|line| line.strip_prefix("etag: "))
            .context("no ETag")?;
        ensure!(get("/", &[&host, &format!("if-none-match: {etag}")])?.0 == 304);

        // The daemon would let this user; the page does not.
        for (method, path) in [
            ("POST", "/v1/networks"),
            ("DELETE", "/v1/ports/1"),
            ("POST", "/v1/invites"),
            ("GET", "/v1/docker"),
            ("PUT", "/v1/status"),
        ] {
            let head =
                format!("{method} {path} HTTP/1.1\r\n{host}\r\n{bearer}\r\ncontent-length: 0");
            let (status, answer) = ask(&ui, node, &head)?;
            ensure!(status == 404 || status == 405, "{method} {path}: {answer}");
        }
        let head =
            format!("POST /v1/trace HTTP/1.1\r\n{host}\r\n{bearer}\r\ncontent-length: 999999");
        ensure!(ask(&ui, node, &head)?.0 == 400);
        Ok(())
    });
}
