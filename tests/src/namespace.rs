//! A network namespace for one test: a private loopback without a way out, on which packets can be dropped.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
};

/// Environment variable that marks a process inside the namespace.
const INSIDE: &str = "PHASE6_TEST_NAMESPACE";

/// True if this process was started by [`run_inside`].
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test of this name again, alone, in a namespace that ends with it. Prints those lines of its output
/// that contain `marker`.
pub fn run_inside(test: &str, marker: &str) {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    // `exec` makes the test the process that is waited for.
    command.args(["sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && exec \"$0\" \"$@\""]);
    command.arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = command.stdin(Stdio::null()).output().expect("unshare can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    #[allow(clippy::print_stdout, reason = "`cargo xtask chaos` shows what was measured")]
    for line in text.lines().filter(|line| line.contains(marker)) {
        println!("{line}");
    }
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "the test did not run: {text}");
}

/// Drops all packets to and from a port while it is enabled.
pub struct BlackHole {
    port: u16,
}

impl BlackHole {
    /// Prepares the rules; no packet is dropped yet.
    ///
    /// # Panics
    ///
    /// Outside of a namespace of the test's own: the rules would apply to the whole machine.
    pub fn new(port: u16) -> Self {
        assert!(is_inside(), "not in a network namespace of the test's own");
        nft("add table inet phase6");
        nft("add chain inet phase6 lost { type filter hook input priority 0; }");
        Self { port }
    }

    pub fn enable(&self) {
        for end in ["sport", "dport"] {
            nft(&format!(
                "add rule inet phase6 lost ip daddr {} tcp {end} {} drop",
                Ipv4Addr::LOCALHOST,
                self.port
            ));
        }
    }

    pub fn disable(&self) {
        nft("flush chain inet phase6 lost");
    }
}

fn nft(rule: &str) {
    let output = Command::new("nft").arg(rule).output().expect("nft can be started");
    assert!(output.status.success(), "nft {rule}: {}", String::from_utf8_lossy(&output.stderr));
}
