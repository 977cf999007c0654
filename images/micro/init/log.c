// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "init.h"

static void say_v(const char *format, va_list arguments)
{
	char line[256];
	int length = vsnprintf(line, sizeof(line) - 1, format, arguments);

	if (length < 0)
		return;
	if ((size_t)length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	/* One write a line, so that the kernel's own lines do not cut it in two. */
	if (write(STDERR_FILENO, line, (size_t)length) < 0)
		return;
}

void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say_v(format, arguments);
	va_end(arguments);
}

void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say_v(format, arguments);
	va_end(arguments);
	/* The exit of PID 1 is a kernel panic: pvpanic tells the host, and panic=-1 ends the guest. */
	exit(1);
}
