//! What the kernel knows of this process and its disks. See proc_pid_stat(5), proc_pid_io(5).

use super::round::Sample;
use crate::pulse::Work;

/// How the spool's thread is now. Reads /proc only while it is busy.
pub(super) fn sample(work: &Work) -> Sample {
    let present = work.present();
    if present.is_none() {
        return Sample {
            work: None,
            waits: false,
            moved: 0,
        };
    }
    Sample {
        work: present,
        // The storage engine has threads of its own, which may be the ones that wait.
        waits: waits_for_disk(),
        moved: bytes_moved(),
    }
}

/// A thread of this process is in uninterruptible sleep. Where /proc cannot be read nobody can
/// tell, and nobody is to be killed for that.
fn waits_for_disk() -> bool {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return true;
    };
    tasks.flatten().any(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat"));
        stat.is_ok_and(|stat| state(&stat) == Some('D'))
    })
}

/// The state in a line of `stat`: after the name, which may itself hold anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// 0 where the kernel keeps no account.
fn bytes_moved() -> u64 {
    let Ok(io) = std::fs::read_to_string("/proc/self/io") else {
        return 0;
    };
    let lines = io.lines().filter_map(|line| {
        let bytes = line
            .strip_prefix("read_bytes: ")
            .or_else(|| line.strip_prefix("write_bytes: "))?;
        bytes.trim().parse::<u64>().ok()
    });
    lines.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_found_behind_any_name() {
        assert_eq!(state("12 (spool) D 1 12"), Some('D'));
        assert_eq!(state("12 (a) R (b) S 1 12"), Some('S'));
        assert_eq!(state(""), None);
    }

    #[test]
    fn this_process_is_seen() {
        let work = Work::default();
        assert_eq!(sample(&work).work, None);
        assert_eq!(work.busy(|| sample(&work)).work, Some(1));
    }
}
