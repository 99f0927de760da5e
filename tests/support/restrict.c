/* The restrictions of a unit for a process that systemd does not start: for tests whose scaffolding
 * needs root (disks, networks), while the hub must have no more rights than in its unit.
 *
 *     restrict save PID FILE              the system call filters of a process, into a file
 *     restrict run FILE DIR COMMAND...    COMMAND in its own place, restricted
 *
 * `save` needs CAP_SYS_ADMIN, and a kernel with CONFIG_CHECKPOINT_RESTORE (Debian's has it). `run`,
 * as root: these filters, no capability, no way to get one, and a file system that is read-only but
 * for DIR and what is mounted below it. It stays root, without any power of root, because the
 * scaffolding's files are root's.
 *
 * In the file each filter is a 32-bit number of instructions (struct sock_filter) and those; the
 * oldest filter first.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>

/* The kernel's own bound of one filter is BPF_MAXINSNS; of filters no sane unit has more. */
enum { FILTERS = 256 };

static struct sock_filter program[BPF_MAXINSNS];

static void save(pid_t pid, const char *path) {
    FILE *file = fopen(path, "w");
    if (!file)
        err(1, "%s", path);
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
        err(1, "cannot trace %d", pid);
    if (waitpid(pid, NULL, __WALL) != pid)
        err(1, "waitpid");
    /* The kernel counts from the youngest. */
    int count = 0;
    while (count < FILTERS && ptrace(PTRACE_SECCOMP_GET_FILTER, pid, (void *)(long)count, NULL) > 0)
        count++;
    if (count == 0)
        err(1, "no filter of %d", pid);
    for (long index = count - 1; index >= 0; index--) {
        long length = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, (void *)index, program);
        uint32_t instructions = (uint32_t)length;
        if (length <= 0)
            err(1, "filter %ld of %d", index, pid);
        fwrite(&instructions, sizeof instructions, 1, file);
        fwrite(program, sizeof *program, instructions, file);
    }
    if (fclose(file))
        err(1, "%s", path);
    ptrace(PTRACE_DETACH, pid, 0, 0);
    printf("%d filters\n", count);
}

static void read_only_but(const char *dir) {
    struct mount_attr close = {.attr_set = MOUNT_ATTR_RDONLY};
    struct mount_attr open = {.attr_clr = MOUNT_ATTR_RDONLY};
    /* What is unmounted outside must not live on in here. */
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        err(1, "a mount namespace");
    if (mount(dir, dir, NULL, MS_BIND | MS_REC, NULL))
        err(1, "%s", dir);
    if (mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &close, sizeof close) ||
        mount_setattr(AT_FDCWD, dir, AT_RECURSIVE, &open, sizeof open))
        err(1, "mount_setattr");
    /* The directory that it is in belongs to the mount that was there before. */
    char here[4096];
    if (!getcwd(here, sizeof here) || chdir(here))
        err(1, "chdir");
}

static void no_capability(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
    memset(none, 0, sizeof none);
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++)
        if (prctl(PR_CAPBSET_DROP, capability))
            err(1, "PR_CAPBSET_DROP");
    if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED) ||
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) ||
        syscall(SYS_capset, &header, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        err(1, "cannot give up capabilities");
}

static void filter_by(FILE *file) {
    uint32_t instructions;
    while (fread(&instructions, sizeof instructions, 1, file) == 1) {
        if (instructions > BPF_MAXINSNS ||
            fread(program, sizeof *program, instructions, file) != instructions)
            errx(1, "no filters");
        struct sock_fprog filter = {(unsigned short)instructions, program};
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
            err(1, "PR_SET_SECCOMP");
    }
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "save")) {
        save(atoi(argv[2]), argv[3]);
        return 0;
    }
    if (argc < 5 || strcmp(argv[1], "run"))
        errx(2, "restrict save PID FILE, or restrict run FILE DIR COMMAND...");
    FILE *file = fopen(argv[2], "r");
    if (!file)
        err(1, "%s", argv[2]);
    read_only_but(argv[3]);
    no_capability();
    filter_by(file);
    execvp(argv[4], argv + 4);
    err(127, "%s", argv[4]);
}
