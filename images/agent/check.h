/* SPDX-License-Identifier: Apache-2.0 */
/* What the two ends of a check have agreed on. */
#ifndef VPCTL_CHECK_H
#define VPCTL_CHECK_H

/* From the range that IEEE 802 sets aside for local experiments. */
#define CHECK_ETHERTYPE 0x88b5

/* Test number N of the plan uses this port plus N: so a message too short for a header still says its test. */
#define CHECK_PORT 47100

/* Sent in frames of their own when the sender has sent everything: test number in the header. */
#define CHECK_END_TEST 0xffffffffu
#define CHECK_END_FRAMES 3

#define ETHERNET_HEADER 14

#endif
