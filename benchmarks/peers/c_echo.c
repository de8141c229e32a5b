/* The ceiling: what the broker gives when the program on the other side costs next to nothing.
 *
 * One connection: channel 1 consumes and acknowledges, channel 2 publishes with confirms. Both number their
 * messages from one, and each delivery has one reply, so the number in a confirm is that of the delivery.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

enum { CONSUMING = 1, PUBLISHING = 2 };

static void fail(const char *what) {
    fprintf(stderr, "c_echo: %s failed\n", what);
    exit(1);
}

static void check(amqp_connection_state_t connection, const char *what) {
    if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    if (value == NULL) fail(name);
    return value;
}

static amqp_connection_state_t connect_to(char *url) {
    struct amqp_connection_info info;
    if (amqp_parse_url(url, &info) != AMQP_STATUS_OK) fail("the URL");
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (socket == NULL || amqp_socket_open(socket, info.host, info.port) != AMQP_STATUS_OK) fail("connecting");
    amqp_rpc_reply_t login = amqp_login(connection, info.vhost, 0, AMQP_DEFAULT_FRAME_SIZE, 0,
                                        AMQP_SASL_METHOD_PLAIN, info.user, info.password);
    if (login.reply_type != AMQP_RESPONSE_NORMAL) fail("the login");
    return connection;
}

static void consume(amqp_connection_state_t connection, amqp_bytes_t queue, uint16_t prefetch) {
    amqp_channel_open(connection, CONSUMING);
    check(connection, "opening the first channel");
    amqp_channel_open(connection, PUBLISHING);
    check(connection, "opening the second channel");
    amqp_confirm_select(connection, PUBLISHING);
    check(connection, "asking for confirms");
    amqp_basic_qos(connection, CONSUMING, 0, prefetch, 0);
    check(connection, "setting the prefetch");
    amqp_table_entry_t type = {.key = amqp_cstring_bytes("x-queue-type"),
                               .value = {.kind = AMQP_FIELD_KIND_UTF8,
                                         .value.bytes = amqp_cstring_bytes("quorum")}};
    amqp_table_t arguments = {.num_entries = 1, .entries = &type};
    amqp_queue_declare(connection, CONSUMING, queue, 0, 1, 0, 0, arguments);
    check(connection, "declaring the queue");
    amqp_basic_consume(connection, CONSUMING, queue, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    check(connection, "consuming");
}

static void answer(amqp_connection_state_t connection, const amqp_message_t *request) {
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG,
        .content_type = amqp_cstring_bytes("application/json"),
        .delivery_mode = AMQP_DELIVERY_PERSISTENT,
        .correlation_id = request->properties.correlation_id,
    };
    int status = amqp_basic_publish(connection, PUBLISHING, amqp_empty_bytes, request->properties.reply_to, 0, 0,
                                    &properties, request->body);
    if (status != AMQP_STATUS_OK) fail("publishing");
}

/* A frame that is no delivery: a confirm, or the end. */
static void settle(amqp_connection_state_t connection) {
    amqp_frame_t frame;
    if (amqp_simple_wait_frame(connection, &frame) != AMQP_STATUS_OK) fail("reading");
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD) {
        fail("a frame that is no confirm: the connection");
    }
    const amqp_basic_ack_t *confirm = frame.payload.method.decoded;
    if (amqp_basic_ack(connection, CONSUMING, confirm->delivery_tag, confirm->multiple) != AMQP_STATUS_OK) {
        fail("acknowledging");
    }
}

int main(void) {
    amqp_connection_state_t connection = connect_to(strdup(variable("BENCH_AMQP_URL")));
    consume(connection, amqp_cstring_bytes(variable("BENCH_QUEUE")), atoi(variable("BENCH_CONCURRENCY")));
    for (;;) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(connection);
        amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, NULL, 0);
        if (reply.reply_type == AMQP_RESPONSE_NORMAL) {
            answer(connection, &envelope.message);
            amqp_destroy_envelope(&envelope);
        } else if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION
                   && reply.library_error == AMQP_STATUS_UNEXPECTED_STATE) {
            settle(connection);
        } else {
            fail("consuming");
        }
    }
}
