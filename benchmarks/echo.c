/* The least that a UDP probe can be: what exporter.probing is measured against.
 *
 *   echo server ADDRESS PORT
 *   echo client SOURCE PORT DESTINATION PORT PERIOD_MICROSECONDS COUNT
 *
 * Socket and timestamps are those of exporter/probing/sockets.py: SO_TIMESTAMPING in software, on arrival and, for the
 * client, on sending (Documentation/networking/timestamping.rst). The server puts into its answer how long it held
 * the request; the client prints, for each answer, when it sent (Unix ns), the round trip by the kernel's times
 * without the server's, and the round trip as the program saw it (ns).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct packet {
    uint64_t number, held;
    char padding[48]; /* 64 bytes, as a probe of ours */
};

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_socket(const char *address, int port, int flags) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    if (s < 0 || inet_pton(AF_INET, address, &own.sin_addr) != 1 ||
        setsockopt(s, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof flags) || bind(s, (void *)&own, sizeof own)) {
        perror(address);
        exit(2);
    }
    return s;
}

/* Receive one packet (or, with MSG_ERRQUEUE, one transmit time); return the kernel's time of it, 0 for none. */
static int64_t receive(int s, struct packet *packet, struct sockaddr_in *from, int flags) {
    char ancillary[512];
    struct iovec data = {packet, sizeof *packet};
    struct msghdr message = {.msg_name = from, .msg_namelen = from ? sizeof *from : 0, .msg_iov = &data,
                             .msg_iovlen = 1, .msg_control = ancillary, .msg_controllen = sizeof ancillary};
    if (recvmsg(s, &message, flags) < 0)
        return 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPING) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            return t.tv_sec * 1000000000LL + t.tv_nsec;
        }
    return 0;
}

static void serve(char **words) {
    int s = open_socket(words[0], atoi(words[1]), SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE);
    for (;;) {
        struct packet packet;
        struct sockaddr_in from;
        int64_t came = receive(s, &packet, &from, 0);
        if (!came)
            continue;
        packet.held = now() - came;
        sendto(s, &packet, sizeof packet, 0, (void *)&from, sizeof from);
    }
}

static int ask(char **words) {
    int s = open_socket(words[0], atoi(words[1]),
                        SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
                            SOF_TIMESTAMPING_OPT_TSONLY);
    struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = htons(atoi(words[3]))};
    inet_pton(AF_INET, words[2], &far.sin_addr);
    int64_t period = atoll(words[4]) * 1000, due = now();
    long count = atol(words[5]);
    for (long number = 0; number < count; number++) {
        struct packet packet = {.number = number}, ignored;
        int64_t began = now(), sent = 0, came = 0, seen = 0;
        sendto(s, &packet, sizeof packet, 0, (void *)&far, sizeof far);
        while (now() - began < 500000000 && !came) {
            struct pollfd ready = {.fd = s, .events = POLLIN};
            poll(&ready, 1, 500);
            seen = now();
            if (!sent)
                sent = receive(s, &ignored, NULL, MSG_ERRQUEUE | MSG_DONTWAIT);
            came = receive(s, &packet, NULL, MSG_DONTWAIT);
            if (came && packet.number != (uint64_t)number)
                came = 0;
        }
        if (came && sent)
            printf("%lld %lld %lld\n", (long long)began, (long long)(came - sent - (int64_t)packet.held),
                   (long long)(seen - began));
        due += period;
        if (due > now())
            usleep((due - now()) / 1000);
    }
    return 0;
}

int main(int count, char **words) {
    if (count == 4 && !strcmp(words[1], "server"))
        serve(words + 2);
    if (count == 8 && !strcmp(words[1], "client"))
        return ask(words + 2);
    fprintf(stderr, "echo server ADDRESS PORT | echo client SOURCE PORT DESTINATION PORT PERIOD_MICROSECONDS COUNT\n");
    return 2;
}
