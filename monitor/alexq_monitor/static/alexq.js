// Keeps the live part of a page up to date: fetches it, and changes only what differs, so that focus,
// selection, scroll and what was typed stay. Asks before an action, and does not send it twice.
(function () {
    "use strict";

    var live = document.getElementById("alexq-live");
    var dot = document.getElementById("alexq-dot");
    var status = document.getElementById("alexq-status");
    var everyMs = live ? 1000 * Number(live.dataset.refreshS) : 0;
    var refreshedAt = new Date();
    var timer = null;
    var isAsking = false;
    var sentAt = -Infinity;
    var LONGEST_MS = 6500;
    var TWICE_MS = 10000;

    function clock(time) {
        return time.toLocaleTimeString([], {hour12: false});
    }

    function say(text, isWell) {
        if (status && status.textContent !== text) {
            status.textContent = text;
        }
        if (dot) {
            dot.classList.toggle("status-dot-live", isWell);
            dot.classList.toggle("status-dot-error", !isWell);
        }
    }

    function isElement(node) {
        return node.nodeType === Node.ELEMENT_NODE;
    }

    function isSame(one, other) {
        return one.nodeType === other.nodeType && one.nodeName === other.nodeName &&
            (one.id || "") === (other.id || "");
    }

    function copyAttributes(to, from) {
        Array.from(to.attributes).forEach(function (old) {
            if (!from.hasAttribute(old.name) && old.name !== "open") {
                to.removeAttribute(old.name);
            }
        });
        Array.from(from.attributes).forEach(function (one) {
            if (to.getAttribute(one.name) !== one.value) {
                to.setAttribute(one.name, one.value);
            }
        });
    }

    // Makes the children of `to` those of `from`; a row that is known by its id is moved, not made anew.
    function change(to, from) {
        var known = {};
        var wantedIds = new Set(Array.from(from.children, function (child) { return child.id; }));
        // What is gone goes first: the rows after it need not move, and what moves loses the focus.
        Array.from(to.children).forEach(function (child) {
            if (child.id && !wantedIds.has(child.id)) {
                child.remove();
            } else if (child.id) {
                known[child.id] = child;
            }
        });
        var next = to.firstChild;
        Array.from(from.childNodes).forEach(function (wanted) {
            var found = wanted.id && known[wanted.id];
            // White space between elements is not the same in a page and in its part alone.
            while (!found && next && isElement(wanted) && !isElement(next)) {
                next = next.nextSibling;
                (next ? next.previousSibling : to.lastChild).remove();
            }
            if (found && found !== next) {
                to.insertBefore(found, next);
            } else if (!found && next && isSame(next, wanted)) {
                found = next;
            }
            if (!found) {
                to.insertBefore(document.importNode(wanted, true), next);
                return;
            }
            if (found === next) {
                next = next.nextSibling;
            }
            if (!isElement(found)) {
                if (found.nodeValue !== wanted.nodeValue) {
                    found.nodeValue = wanted.nodeValue;
                }
            } else if (!found.isEqualNode(wanted)) {
                copyAttributes(found, wanted);
                change(found, wanted);
            }
        });
        while (next) {
            var old = next;
            next = next.nextSibling;
            old.remove();
        }
    }

    function show(text) {
        var focused = document.activeElement;
        change(live, new DOMParser().parseFromString(text, "text/html").body);
        if (focused !== document.activeElement && focused.isConnected) {
            focused.focus({preventScroll: true});
        }
    }

    function failed(why) {
        say("Not refreshed since " + clock(refreshedAt) + ": " + why, false);
    }

    function refresh() {
        if (isAsking || document.hidden) {
            return;
        }
        isAsking = true;
        var giveUp = new AbortController();
        var late = setTimeout(function () { giveUp.abort(); }, LONGEST_MS);
        fetch(window.location.href, {
            headers: {"X-Alexq-Fragment": "1"},
            credentials: "same-origin",
            redirect: "manual",  // to a login
            signal: giveUp.signal
        }).then(function (answer) {
            return answer.text().then(function (text) {
                if (answer.status === 401 || answer.type === "opaqueredirect") {
                    failed("log in again");
                    return;
                }
                if (!answer.ok) {
                    failed(text.length < 300 ? text : "the dashboard cannot make this page");
                    return;
                }
                if ("reload" in live.dataset) {
                    window.location.reload();
                    return;
                }
                show(text);
                refreshedAt = new Date();
                say("Live, " + clock(refreshedAt), true);
            });
        }).catch(function () {
            failed("the dashboard does not answer");
        }).finally(function () {
            clearTimeout(late);
            isAsking = false;
            plan();
        });
    }

    function plan() {
        clearTimeout(timer);
        timer = document.hidden ? null : setTimeout(refresh, everyMs);
    }

    document.addEventListener("submit", function (event) {
        var question = event.target.getAttribute("data-confirm");
        var isTwice = performance.now() - sentAt < TWICE_MS;  // the answer to the second says that nothing was done
        if (isTwice || (question && !window.confirm(question))) {
            event.preventDefault();
        } else if (event.target.method === "post") {
            sentAt = performance.now();
        }
    });

    window.addEventListener("pageshow", function () { sentAt = -Infinity; });

    if (everyMs) {
        say("Live, " + clock(refreshedAt), true);
        plan();
        document.addEventListener("visibilitychange", function () {
            if (!document.hidden) {
                refresh();
            }
        });
    }
}());
