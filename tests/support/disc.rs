//! A file system of its own, which can be filled, frozen, made read-only and cut off: ext4 in a
//! file. Needs root and loop devices.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: what was not synced is gone.
const CUT: &str = "my $flags = pack('I', 2); \
    sysopen(F, $ARGV[0], 0) && ioctl(F, 0x8004587d, $flags) or die $!";

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
            &[&format[..], &[disc.image.to_str()?]].concat(),
        );
        if made && rustix::process::geteuid().is_root() && disc.mount() {
            return Some(disc);
        }
        // Past the test harness, which swallows what passing tests print.
        let _ = writeln!(
            std::io::stderr(),
            "\nNOT TESTED: a disk of our own needs root, a loop device and mkfs.ext4\n"
        );
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
    pub fn cut_power(&self) {
        assert!(
            run("perl", &["-e", CUT, self.name()]),
            "no EXT4_IOC_SHUTDOWN"
        );
        let begun = Instant::now();
        loop {
            self.unmount();
            assert!(self.mount(), "cannot be mounted after a cut");
            if self.takes_a_file() {
                return;
            }
            // Still the one that was shut down: whoever has copied the mount into a namespace of
            // its own keeps it alive until that ends. A second loop device for the same image
            // would be worse: both write to it.
            assert!(begun.elapsed() < Duration::from_secs(60), "stays shut down");
            std::thread::sleep(Duration::from_millis(50));
        }
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
