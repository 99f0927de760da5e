/* Starts a program on qemu's mps2-an386 (a Cortex-M4); the C library's own start does the rest, and
 * its semihosting prints and exits. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

extern uint8_t stack_top[];
void _start(void);

static void fault(void)
{
    puts("FAILED: a fault of the processor");
    exit(1);
}

/* ARMv7-M B1.5.2: the stack, reset, NMI and the faults. */
__attribute__((section(".vectors"), used)) static const uintptr_t VECTORS[] = {
    (uintptr_t)stack_top, (uintptr_t)_start, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault, (uintptr_t)fault, (uintptr_t)fault,
};
