//! A network namespace of a test's own: a loopback that nobody else has, no way out, and packets that get lost.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
};

/// Set within the namespace.
const INSIDE: &str = "PHASE6_TEST_NAMESPACE";

/// Whether this process runs in a namespace of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test of this name again, alone, in a namespace that ends with it. What it says about
/// `about` is said here.
pub fn run_inside(test: &str, about: &str) {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    // The shell gives way to the test, which is the process that we wait for.
    command.args(["sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && exec \"$0\" \"$@\""]);
    command.arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = command.stdin(Stdio::null()).output().expect("unshare can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    #[allow(clippy::print_stdout, reason = "`cargo xtask chaos` shows what was measured")]
    for line in said.lines().filter(|line| line.contains(about)) {
        println!("{line}");
    }
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "it did not run: {said}");
}

/// Loses what is sent to and from a port, until told otherwise.
pub struct BlackHole {
    port: u16,
}

impl BlackHole {
    /// Nothing is lost yet. Only within a namespace of one's own.
    pub fn at(port: u16) -> Self {
        assert!(is_inside(), "rules for everybody's packets");
        nft("add table inet phase6");
        nft("add chain inet phase6 lost { type filter hook input priority 0; }");
        Self { port }
    }

    pub fn open(&self) {
        for end in ["sport", "dport"] {
            nft(&format!(
                "add rule inet phase6 lost ip daddr {} tcp {end} {} drop",
                Ipv4Addr::LOCALHOST,
                self.port
            ));
        }
    }

    pub fn close(&self) {
        nft("flush chain inet phase6 lost");
    }
}

fn nft(rule: &str) {
    let output = Command::new("nft").arg(rule).output().expect("nft can be started");
    assert!(output.status.success(), "nft {rule}: {}", String::from_utf8_lossy(&output.stderr));
}
