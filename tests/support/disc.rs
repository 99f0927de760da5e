//! A file system of its own, which can be filled, frozen, made read-only and cut off: ext4 in a
//! file. Needs root and loop devices.
//!
//! A disc that is cut off has to be mounted where nobody else looks: whoever makes a mount
//! namespace meanwhile, a container for one, would get a copy of the mount, and with it keep the
//! file system alive that was shut down. Mounting the image again then gives that one, or writes to
//! the image twice. So such tests run in a mount namespace of their own, see [`ran_alone`].
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: what was not synced is gone.
const CUT: &str = "my $flags = pack('I', 2); \
    sysopen(F, $ARGV[0], 0) && ioctl(F, 0x8004587d, $flags) or die $!";

/// Set in a mount namespace of our own: the one outside.
const OUTSIDE: &str = "TELEHUB_TEST_MOUNTS";

/// Until the kernel has let go of a disc that was unmounted.
const LET_GO: Duration = Duration::from_secs(60);

/// Runs the test that calls this once more, alone in a process with mounts of its own. Returns
/// whether that is done; `false` in that process. `here`: a closure made in the test, whose type
/// has the name of the test.
///
/// # Panics
/// The test failed there.
pub fn ran_alone<F>(_here: &F) -> bool {
    let mounts = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    if let Some(outside) = std::env::var_os(OUTSIDE) {
        assert_ne!(mounts.as_os_str(), outside, "the rig itself failed");
        return false;
    }
    const UNSHARE: [&str; 3] = ["--mount", "--propagation", "private"];
    if !run("unshare", &[&UNSHARE[..], &["true"]].concat()) {
        not_tested("mounts of our own need root and unshare");
        return true;
    }
    let here = std::any::type_name::<F>().replace("::{{closure}}", "");
    let (_, test) = here.split_once("::").unwrap();
    let seen = std::env::args().any(|word| word == "--nocapture" || word == "--no-capture");
    let output = Command::new("unshare")
        .args(UNSHARE)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .env(OUTSIDE, mounts)
        .stdin(Stdio::null())
        .stdout(if seen {
            Stdio::inherit()
        } else {
            Stdio::piped()
        })
        .stderr(Stdio::inherit())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{test}: {text}");
    assert!(seen || text.contains("1 passed"), "{test}: {text}");
    true
}

/// Past the test harness, which swallows what passing tests print.
fn not_tested(why: &str) {
    let _ = writeln!(std::io::stderr(), "\nNOT TESTED: {why}\n");
}

fn run(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Mounted while this lives.
pub struct Disc {
    image: PathBuf,
    pub path: PathBuf,
}

impl Disc {
    /// `None`, said loudly, where there is no root or no loop device.
    pub fn new(dir: &Path, megabytes: u64) -> Option<Self> {
        Self::with(dir, megabytes, &[])
    }

    /// With more options of mkfs.ext4.
    pub fn with(dir: &Path, megabytes: u64, options: &[&str]) -> Option<Self> {
        let disc = Self {
            image: dir.join("image"),
            path: dir.join("disc"),
        };
        let file = std::fs::File::create(&disc.image).unwrap();
        file.set_len(megabytes << 20).unwrap();
        std::fs::create_dir(&disc.path).unwrap();
        // Few inodes and a small journal leave the room to data.
        let format = ["-q", "-F", "-m", "0", "-J", "size=4"];
        let made = run(
            "mkfs.ext4",
            &[&format[..], options, &[disc.image.to_str()?]].concat(),
        );
        if made && rustix::process::geteuid().is_root() && disc.mount() {
            return Some(disc);
        }
        not_tested("a disk of our own needs root, a loop device and mkfs.ext4");
        None
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn mount(&self) -> bool {
        run(
            "mount",
            &["-o", "loop", self.image.to_str().unwrap(), self.name()],
        )
    }

    fn unmount(&self) {
        let begun = Instant::now();
        while !run("umount", &[self.name()]) {
            assert!(begun.elapsed() < Duration::from_secs(20), "cannot unmount");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whoever writes must have been ended before, or its later writes count as lost.
    ///
    /// # Panics
    /// With "the rig itself failed" when what is mounted afterwards is not the image read anew.
    pub fn cut_power(&self) {
        assert!(
            std::env::var_os(OUTSIDE).is_some(),
            "the rig itself failed: its mounts are not its own"
        );
        assert!(
            run("perl", &["-e", CUT, self.name()]),
            "no EXT4_IOC_SHUTDOWN"
        );
        assert!(!self.takes_a_file(), "the rig itself failed: not shut down");
        self.unmount();
        let begun = Instant::now();
        loop {
            let devices = self.devices();
            if devices.is_empty() {
                break;
            }
            assert!(
                begun.elapsed() < LET_GO,
                "the rig itself failed: the disc is still in use, at {devices}"
            );
            // The last one who unmounts detaches it; this is for devices that were left over.
            for device in devices.lines() {
                run("losetup", &["--detach", device]);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(self.mount(), "cannot be mounted after a cut");
        assert!(
            self.takes_a_file(),
            "the rig itself failed: still shut down after a mount"
        );
    }

    /// The loop devices that have the image, one a line.
    fn devices(&self) -> String {
        let output = Command::new("losetup")
            .args(["--noheadings", "--output", "NAME", "--associated"])
            .arg(&self.image)
            .output()
            .unwrap();
        assert!(output.status.success(), "the rig itself failed: losetup");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Copies what is on it to `$KEEP/name`, if that is set: for a look at it later.
    pub fn keep(&self, name: &str) -> Option<PathBuf> {
        let copy = Path::new(&std::env::var_os("KEEP")?).join(name);
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir_all(copy.parent()?).unwrap();
        assert!(run("cp", &["-a", self.name(), copy.to_str()?]));
        Some(copy)
    }

    fn takes_a_file(&self) -> bool {
        let path = self.path.join("taken");
        let taken =
            std::fs::write(&path, "x").and_then(|()| std::fs::File::open(&path)?.sync_all());
        taken.is_ok() && std::fs::remove_file(path).is_ok()
    }

    /// Nobody can write until [`Disc::writable`]. Returns whether that was possible: not while
    /// a file is open for writing.
    pub fn read_only(&self) -> bool {
        run("mount", &["-o", "remount,ro", self.name()])
    }

    pub fn writable(&self) {
        assert!(run("mount", &["-o", "remount,rw", self.name()]));
    }

    /// Writers wait until [`Disc::thaw`].
    pub fn freeze(&self) {
        assert!(run("fsfreeze", &["-f", self.name()]));
    }

    pub fn thaw(&self) {
        assert!(run("fsfreeze", &["-u", self.name()]));
    }

    /// Somebody else's file takes all that is left.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path.join("foreign");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096] {
            let chunk = vec![1; size];
            while file.write_all(&chunk).is_ok() {}
        }
        let _ = file.sync_all();
        path
    }
}

impl Drop for Disc {
    fn drop(&mut self) {
        run("fsfreeze", &["-u", self.name()]);
        run("umount", &["-l", self.name()]);
    }
}
