/* Preloaded before a program it moves its wall clock fifteen years on, past the end of 32-bit
 * time in January 2038. Built for 32-bit ARM, where Rust asks glibc's __clock_gettime64.
 */
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#define SYS_CLOCK_GETTIME64 403
#define SHIFT (15LL * 365 * 86400)

int __clock_gettime64(clockid_t clock, int64_t time[2])
{
    int failed = (int)syscall(SYS_CLOCK_GETTIME64, clock, time);
    if (!failed && clock == CLOCK_REALTIME)
        time[0] += SHIFT;
    return failed;
}
