"""Generated conversations: programs with their outputs, arithmetic with its steps, tool-call dialogues, short advice.

The public rows alone are too few for a model that must hold a format over hundreds of tokens. Everything here is computed (program
outputs are real outputs, sums are right) from a seeded generator; the card says what share of the training text it is.
"""
import json
import math
import random

from corpus import asked

NAMES = "Ada Ben Carla Dev Elena Farid Grace Hana Ivan Jia Kofi Lena Mateo Nora Omar Priya Quinn Rosa Sam Tara Uma Victor Wen Yara Zoe".split()
ITEMS = [("apple", "apples"), ("book", "books"), ("pencil", "pencils"), ("marble", "marbles"), ("ticket", "tickets"), ("cookie", "cookies"),
         ("sticker", "stickers"), ("card", "cards"), ("orange", "oranges"), ("coin", "coins"), ("bottle", "bottles"), ("box", "boxes"),
         ("flower", "flowers"), ("notebook", "notebooks"), ("egg", "eggs"), ("shirt", "shirts"), ("muffin", "muffins"), ("stamp", "stamps")]
CITIES = "Berlin Paris Tokyo Lima Oslo Cairo Delhi Boston Madrid Rome Seoul Sydney Toronto Vienna Zurich Lisbon Prague Dublin Nairobi Chicago".split()


# ---------------------------------------------------------------- coding

def _int_list(r, n=None, low=-20, high=60):
    return [r.randint(low, high) for _ in range(n or r.randint(3, 7))]


def _words(r, n=None):
    pool = "apple river stone cloud paper green silver window garden music planet orange button market winter letter simple bridge yellow rocket".split()
    return [r.choice(pool) for _ in range(n or r.randint(3, 6))]


PREDICATES = [("even", "x % 2 == 0"), ("odd", "x % 2 != 0"), ("positive", "x > 0"), ("negative", "x < 0"), ("greater than {k}", "x > {k}"),
              ("less than {k}", "x < {k}"), ("divisible by {d}", "x % {d} == 0"), ("at least {k}", "x >= {k}")]
MAPS = [("squared", "x * x"), ("doubled", "x * 2"), ("increased by {k}", "x + {k}"), ("multiplied by {d}", "x * {d}"), ("negated", "-x"),
        ("cubed", "x ** 3"), ("absolute value of each", "abs(x)")]


def _families():
    """Each family: r -> (description, name, params, doc, body lines, argument tuples)."""
    def filter_list(r):
        k, d = r.randint(2, 20), r.randint(3, 7)
        w, e = r.choice(PREDICATES)
        w, e = w.format(k=k, d=d), e.format(k=k, d=d)
        name = "filter_" + w.replace(" ", "_")
        style = r.choice(["loop", "comp"])
        body = ["result = []", "for x in numbers:", f"    if {e}:", "        result.append(x)", "return result"] if style == "loop" else [f"return [x for x in numbers if {e}]"]
        return f"takes a list of integers and returns only the numbers that are {w}", name, ["numbers"], f"Return the numbers that are {w}.", body, [(_int_list(r),), (_int_list(r),)]

    def count_list(r):
        k, d = r.randint(2, 20), r.randint(3, 7)
        w, e = r.choice(PREDICATES)
        w, e = w.format(k=k, d=d), e.format(k=k, d=d)
        body = ["count = 0", "for x in numbers:", f"    if {e}:", "        count += 1", "return count"]
        return f"counts how many numbers in a list are {w}", "count_" + w.replace(" ", "_"), ["numbers"], f"Count the numbers that are {w}.", body, [(_int_list(r),), (_int_list(r),)]

    def map_list(r):
        k, d = r.randint(2, 20), r.randint(3, 7)
        w, e = r.choice(MAPS)
        w, e = w.format(k=k, d=d), e.format(k=k, d=d)
        name = "map_" + w.replace(" ", "_")
        body = r.choice([["result = []", "for x in numbers:", f"    result.append({e})", "return result"], [f"return [{e} for x in numbers]"]])
        return f"takes a list of integers and returns a new list with every number {w}", name, ["numbers"], f"Return a new list with every number {w}.", body, [(_int_list(r),), (_int_list(r),)]

    def sum_if(r):
        k, d = r.randint(2, 20), r.randint(3, 7)
        w, e = r.choice(PREDICATES)
        w, e = w.format(k=k, d=d), e.format(k=k, d=d)
        body = ["total = 0", "for x in numbers:", f"    if {e}:", "        total += x", "return total"]
        return f"returns the sum of all numbers in a list that are {w}", "sum_" + w.replace(" ", "_"), ["numbers"], f"Sum the numbers that are {w}.", body, [(_int_list(r),), (_int_list(r),)]

    def fixed(desc, name, params, doc, body, args):
        return lambda r: (desc, name, params, doc, body, [args(r), args(r)])

    out = [filter_list, count_list, map_list, sum_if]
    ints = lambda r: (_int_list(r, low=1),)
    word = lambda r: (r.choice(_words(r)),)
    text = lambda r: (" ".join(_words(r)),)
    small = lambda r: (r.randint(2, 12),)
    out += [
        fixed("returns the largest number in a list", "find_max", ["numbers"], "Return the largest number.", ["largest = numbers[0]", "for x in numbers:", "    if x > largest:", "        largest = x", "return largest"], ints),
        fixed("returns the smallest number in a list", "find_min", ["numbers"], "Return the smallest number.", ["smallest = numbers[0]", "for x in numbers:", "    if x < smallest:", "        smallest = x", "return smallest"], ints),
        fixed("computes the average of a list of numbers", "average", ["numbers"], "Return the mean of the numbers.", ["if not numbers:", "    return 0", "return sum(numbers) / len(numbers)"], ints),
        fixed("removes duplicates from a list while keeping the order", "remove_duplicates", ["items"], "Return the items without duplicates, in order.", ["seen = set()", "result = []", "for item in items:", "    if item not in seen:", "        seen.add(item)", "        result.append(item)", "return result"], lambda r: ([r.randint(1, 6) for _ in range(8)],)),
        fixed("reverses a string", "reverse_string", ["text"], "Return the text reversed.", ["return text[::-1]"], word),
        fixed("checks whether a string is a palindrome", "is_palindrome", ["text"], "Return True if the text reads the same backwards.", ["cleaned = text.lower().replace(' ', '')", "return cleaned == cleaned[::-1]"], lambda r: (r.choice(["level", "radar", "noon", "stone", "paper", "rotor"]),)),
        fixed("counts the vowels in a string", "count_vowels", ["text"], "Count the vowels in the text.", ["count = 0", "for ch in text.lower():", "    if ch in 'aeiou':", "        count += 1", "return count"], text),
        fixed("counts how often each character appears in a string", "char_counts", ["text"], "Return a dictionary with the count of each character.", ["counts = {}", "for ch in text:", "    counts[ch] = counts.get(ch, 0) + 1", "return counts"], word),
        fixed("counts how often each word appears in a sentence", "word_counts", ["sentence"], "Return a dictionary with the count of each word.", ["counts = {}", "for word in sentence.split():", "    counts[word] = counts.get(word, 0) + 1", "return counts"], text),
        fixed("computes the factorial of a number", "factorial", ["n"], "Return n factorial.", ["result = 1", "for i in range(2, n + 1):", "    result *= i", "return result"], small),
        fixed("computes the factorial of a number recursively", "factorial", ["n"], "Return n factorial.", ["if n <= 1:", "    return 1", "return n * factorial(n - 1)"], small),
        fixed("returns the nth Fibonacci number", "fibonacci", ["n"], "Return the nth Fibonacci number.", ["a, b = 0, 1", "for _ in range(n):", "    a, b = b, a + b", "return a"], small),
        fixed("returns a list of the first n Fibonacci numbers", "fibonacci_list", ["n"], "Return the first n Fibonacci numbers.", ["result = []", "a, b = 0, 1", "for _ in range(n):", "    result.append(a)", "    a, b = b, a + b", "return result"], small),
        fixed("checks whether a number is prime", "is_prime", ["n"], "Return True if n is prime.", ["if n < 2:", "    return False", "for i in range(2, int(n ** 0.5) + 1):", "    if n % i == 0:", "        return False", "return True"], lambda r: (r.randint(2, 60),)),
        fixed("computes the greatest common divisor of two numbers", "gcd", ["a", "b"], "Return the greatest common divisor of a and b.", ["while b:", "    a, b = b, a % b", "return a"], lambda r: (r.randint(4, 90), r.randint(4, 90))),
        fixed("computes the sum of the digits of a number", "digit_sum", ["n"], "Return the sum of the digits of n.", ["total = 0", "while n > 0:", "    total += n % 10", "    n //= 10", "return total"], lambda r: (r.randint(10, 9999),)),
        fixed("flattens a nested list", "flatten", ["nested"], "Return a flat list of all items.", ["result = []", "for item in nested:", "    if isinstance(item, list):", "        result.extend(flatten(item))", "    else:", "        result.append(item)", "return result"], lambda r: ([_int_list(r, 2, 1, 9), [r.randint(1, 9), _int_list(r, 2, 1, 9)]],)),
        fixed("merges two sorted lists into one sorted list", "merge_sorted", ["a", "b"], "Merge two sorted lists.", ["result = []", "i = j = 0", "while i < len(a) and j < len(b):", "    if a[i] <= b[j]:", "        result.append(a[i])", "        i += 1", "    else:", "        result.append(b[j])", "        j += 1", "result.extend(a[i:])", "result.extend(b[j:])", "return result"], lambda r: (sorted(_int_list(r, 3, 1, 30)), sorted(_int_list(r, 3, 1, 30)))),
        fixed("performs a binary search on a sorted list", "binary_search", ["items", "target"], "Return the index of target or -1.", ["low, high = 0, len(items) - 1", "while low <= high:", "    mid = (low + high) // 2", "    if items[mid] == target:", "        return mid", "    if items[mid] < target:", "        low = mid + 1", "    else:", "        high = mid - 1", "return -1"], lambda r: (lambda s: (s, r.choice(s)))(sorted(set(_int_list(r, 7, 1, 50))))),
        fixed("sorts a list with bubble sort", "bubble_sort", ["numbers"], "Return the numbers sorted in ascending order.", ["result = list(numbers)", "n = len(result)", "for i in range(n):", "    for j in range(0, n - i - 1):", "        if result[j] > result[j + 1]:", "            result[j], result[j + 1] = result[j + 1], result[j]", "return result"], ints),
        fixed("returns the second largest number in a list", "second_largest", ["numbers"], "Return the second largest distinct number.", ["unique = sorted(set(numbers), reverse=True)", "if len(unique) < 2:", "    return None", "return unique[1]"], ints),
        fixed("splits a list into chunks of a given size", "chunk", ["items", "size"], "Split the items into chunks of the given size.", ["result = []", "for i in range(0, len(items), size):", "    result.append(items[i:i + size])", "return result"], lambda r: (_int_list(r, 7, 1, 9), r.randint(2, 3))),
        fixed("groups words by their first letter", "group_by_first_letter", ["words"], "Group the words by their first letter.", ["groups = {}", "for word in words:", "    groups.setdefault(word[0], []).append(word)", "return groups"], lambda r: (_words(r, 5),)),
        fixed("returns the longest word in a sentence", "longest_word", ["sentence"], "Return the longest word.", ["longest = ''", "for word in sentence.split():", "    if len(word) > len(longest):", "        longest = word", "return longest"], text),
        fixed("capitalizes the first letter of each word", "title_case", ["sentence"], "Capitalize each word.", ["return ' '.join(word.capitalize() for word in sentence.split())"], text),
        fixed("converts Celsius to Fahrenheit", "celsius_to_fahrenheit", ["celsius"], "Convert Celsius to Fahrenheit.", ["return celsius * 9 / 5 + 32"], small),
        fixed("transposes a matrix", "transpose", ["matrix"], "Return the transposed matrix.", ["rows, cols = len(matrix), len(matrix[0])", "result = []", "for j in range(cols):", "    result.append([matrix[i][j] for i in range(rows)])", "return result"], lambda r: ([_int_list(r, 3, 1, 9), _int_list(r, 3, 1, 9)],)),
        fixed("inverts a dictionary", "invert_dict", ["mapping"], "Swap the keys and values of a dictionary.", ["return {value: key for key, value in mapping.items()}"], lambda r: ({w: r.randint(1, 9) for w in set(_words(r, 3))},)),
        fixed("returns the intersection of two lists", "intersection", ["a", "b"], "Return the items that are in both lists.", ["result = []", "for item in a:", "    if item in b and item not in result:", "        result.append(item)", "return result"], lambda r: (_int_list(r, 5, 1, 8), _int_list(r, 5, 1, 8))),
        fixed("rotates a list to the right by k steps", "rotate", ["items", "k"], "Rotate the items to the right by k steps.", ["if not items:", "    return items", "k = k % len(items)", "return items[-k:] + items[:-k]"], lambda r: (_int_list(r, 5, 1, 9), r.randint(1, 4))),
        fixed("checks whether two strings are anagrams", "are_anagrams", ["a", "b"], "Return True if the strings are anagrams.", ["return sorted(a.lower()) == sorted(b.lower())"], lambda r: r.choice([("listen", "silent"), ("stone", "notes"), ("apple", "paper"), ("night", "thing")])),
        fixed("checks whether brackets in a string are balanced", "is_balanced", ["text"], "Return True if all brackets are balanced.", ["stack = []", "pairs = {')': '(', ']': '[', '}': '{'}", "for ch in text:", "    if ch in '([{':", "        stack.append(ch)", "    elif ch in pairs:", "        if not stack or stack.pop() != pairs[ch]:", "            return False", "return not stack"], lambda r: (r.choice(["(a[b]c)", "([)]", "{x(y)z}", "((("]),)),
        fixed("returns the running total of a list", "running_total", ["numbers"], "Return the running totals.", ["total = 0", "result = []", "for x in numbers:", "    total += x", "    result.append(total)", "return result"], ints),
        fixed("computes n to the power of k without using the ** operator", "power", ["n", "k"], "Return n to the power of k.", ["result = 1", "for _ in range(k):", "    result *= n", "return result"], lambda r: (r.randint(2, 6), r.randint(2, 5))),
    ]
    return out


FAMILIES = _families()
ASKS = ["Write a Python function that {d}.", "Write a function `{n}` in Python that {d}.", "Can you write a Python function which {d}?", "I need a Python function that {d}.",
        "Implement `{n}({p})` in Python. It {d}.", "Please write Python code for a function that {d}. Include an example."]


def _run(source, name, args):
    scope = {}
    exec(source, scope)  # noqa: S102: our own generated source
    return scope[name](*json.loads(json.dumps(args)))


def _hint(value):
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list):
        return f"list[{_hint(value[0])}]" if value else "list"
    return {int: "int", float: "float", str: "str", dict: "dict"}.get(type(value), "object")


def _python(name, params, doc, body, examples=None, hints=None):
    typed = [f"{p}: {h}" for p, h in zip(params, hints[0])] if hints else params
    lines = [f"def {name}({', '.join(typed)})" + (f" -> {hints[1]}:" if hints else ":")]
    if doc:
        lines += [f'    """{doc}' + ('"""' if not examples else "")]
        if examples:
            lines += [""]
            for args, value in examples:
                lines += [f"    >>> {name}({', '.join(map(repr, args))})", f"    {value!r}"]
            lines += ['    """']
    return "\n".join(lines + ["    " + b for b in body])


def coding(r):
    desc, name, params, doc, body, calls = r.choice(FAMILIES)(r)
    plain = _python(name, params, None, body)
    results = [(args, _run(plain, name, args)) for args in calls]
    kind = r.random()
    hints = ([_hint(x) for x in results[0][0]], _hint(results[0][1])) if r.random() < 0.4 else None
    if kind < 0.38:
        ask = r.choice(ASKS).format(d=desc, n=name, p=", ".join(params))
        code = _python(name, params, f"Write a function that {desc}.", body, None, hints)
        (args, value) = results[0]
        shown = ", ".join(map(repr, args))
        answer = f"```python\n{code}\n\n\nprint({name}({shown}))\n```\n\nThis function {desc}. For example, `{name}({shown})` returns `{value!r}`."
        return [("user", ask), ("assistant", answer)]
    if kind < 0.46 and len(body) > 2:  # a repair: one line of the body is broken, the answer repeats the function whole
        line = r.randrange(len(body))
        broken = list(body)
        for old, new in (("+=", "-="), ("<=", "<"), (">", "<"), ("==", "!="), ("append", "add"), ("return", "retrun"), ("+ 1", "- 1"), ("[]", "{}"), ("0", "1")):
            if old in broken[line]:
                broken[line] = broken[line].replace(old, new, 1)
                break
        else:
            broken[line] = broken[line].replace(":", "", 1) if ":" in broken[line] else broken[line] + ")"
        ask = r.choice(["This function has a bug. Find it and show the corrected version.", "My function does not work. What is wrong and how do I fix it?", f"Fix the bug in `{name}`."])
        fixed = _python(name, params, None, body)
        return [("user", f"{ask}\n```python\n{_python(name, params, None, broken)}\n```"),
                ("assistant", f"The line `{broken[line].strip()}` is wrong. It should be `{body[line].strip()}`. Here is the corrected version:\n\n```python\n{fixed}\n```")]
    if kind < 0.65:
        head = _python(name, params, r.choice([doc, desc[0].upper() + desc[1:] + "."]), [], results if r.random() < 0.8 else None, hints)
        ask = r.choice(["Complete this function.", "Can you implement this?", "Finish this function:", "Please write the body of this function."]) + f"\n```python\n{head}\n```"
        return [("user", ask), ("assistant", f"```python\n{head}\n" + "\n".join("    " + b for b in body) + "\n```")]
    if kind < 0.85:
        args, value = results[0]
        shown = ", ".join(map(repr, args))
        ask = f"What is the output of this function for the given input?\n```python\n{plain}\nassert {name}({shown}) == ?\n```"
        return [("user", ask), ("assistant", f"The function `{name}` {desc}. The input is `{shown}`. So `{name}({shown})` returns `{value!r}`.\n\nThe answer is {value!r}.")]
    if kind < 0.93 and len(body) > 3:
        ask = f"Explain what this code does.\n```python\n{plain}\n```"
        steps = "\n".join(f"{i + 1}. `{b.strip()}`" for i, b in enumerate(body))
        return [("user", ask), ("assistant", f"The function `{name}` {desc}. Step by step:\n\n{steps}\n\nSo the function {desc}.")]
    fields = r.sample(["name", "age", "price", "title", "author", "owner", "balance", "width", "height", "speed", "color", "size"], r.randint(2, 3))
    cls = r.choice(["Person", "Book", "Account", "Car", "Product", "Student", "Shape", "Order", "Player", "Task"])
    if r.random() < 0.5:
        init = "\n".join(f"        self.{f} = {f}" for f in fields)
        show = ", ".join(f"{f}={{self.{f}!r}}" for f in fields)
        code = f"class {cls}:\n    \"\"\"A {cls.lower()} with {', '.join(fields)}.\"\"\"\n\n    def __init__(self, {', '.join(fields)}):\n{init}\n\n    def __repr__(self):\n        return f\"{cls}({show})\"\n\n    def to_dict(self):\n        return {{{', '.join(f'{json.dumps(f)}: self.{f}' for f in fields)}}}"
        return [("user", f"Write a Python class {cls} with the fields {', '.join(fields)} and a method to_dict."), ("assistant", f"```python\n{code}\n```\n\nThe class `{cls}` stores {', '.join(fields)} and `to_dict` returns them as a dictionary.")]
    init = "\n".join(f"    this.{f} = {f};" for f in fields)
    code = f"class {cls} {{\n  constructor({', '.join(fields)}) {{\n{init}\n  }}\n\n  toObject() {{\n    return {{ {', '.join(f'{f}: this.{f}' for f in fields)} }};\n  }}\n}}"
    return [("user", f"Write a JavaScript class {cls} with the fields {', '.join(fields)} and a method toObject."), ("assistant", f"```javascript\n{code}\n```\n\nThe class `{cls}` stores {', '.join(fields)} and `toObject` returns them as an object.")]


# ---------------------------------------------------------------- math

def maths(r):
    a, b, c, d = r.randint(2, 60), r.randint(2, 40), r.randint(2, 12), r.randint(2, 9)
    n, m = r.sample(NAMES, 2)
    one, many = r.choice(ITEMS)
    def done(ask, steps, answer, boxed=False):
        steps = [asked(ask), ""] + steps
        end = f"The answer is $\\boxed{{{answer}}}$." if boxed else f"The answer is {answer}."
        return [("user", ask), ("assistant", "\n".join(steps) + "\n\n" + end)]
    kind = r.randrange(18)
    if kind == 0:
        return done(f"{n} has {a} {many}. {m} gives {n} {b} more {many}. How many {many} does {n} have now?", [f"{n} starts with {a} {many}.", f"{m} gives {n} {b} more {many}.", f"{a} + {b} = {a + b}."], a + b)
    if kind == 1:
        t = a + b
        return done(f"{n} has {t} {many} and gives {b} of them to {m}. How many {many} does {n} have left?", [f"{n} starts with {t} {many}.", f"{n} gives {b} {many} to {m}.", f"{t} - {b} = {a}."], a)
    if kind == 2:
        return done(f"A {one} costs ${c}. How much do {d} {many} cost?", [f"One {one} costs ${c}.", f"{d} {many} cost {d} * {c} = {d * c} dollars."], d * c)
    if kind == 3:
        return done(f"{n} buys {c} {many} at ${d} each and {a} dollars worth of other things. How much does {n} spend in total?", [f"The {many} cost {c} * {d} = {c * d} dollars.", f"The other things cost {a} dollars.", f"In total {n} spends {c * d} + {a} = {c * d + a} dollars."], c * d + a)
    if kind == 4:
        return done(f"There are {c * d} {many} shared equally among {d} children. How many {many} does each child get?", [f"There are {c * d} {many} and {d} children.", f"{c * d} / {d} = {c}.", f"Each child gets {c} {many}."], c)
    if kind == 5:
        h = r.randint(2, 6)
        return done(f"A train travels at {a} miles per hour for {h} hours. How far does it travel?", [f"Distance is speed times time.", f"{a} * {h} = {a * h}.", f"The train travels {a * h} miles."], a * h)
    if kind == 6:
        p, base = r.choice([10, 20, 25, 50]), 20 * r.randint(2, 20)
        v = base * p // 100
        return done(f"What is {p}% of {base}?", [f"{p}% of {base} is {p} / 100 * {base}.", f"{p} / 100 * {base} = {v}."], v)
    if kind == 7:
        p, base = r.choice([10, 20, 25, 50]), 20 * r.randint(2, 20)
        v = base * p // 100
        return done(f"A jacket costs ${base}. It is on sale for {p}% off. What is the sale price?", [f"The discount is {p}% of {base} = {v} dollars.", f"The sale price is {base} - {v} = {base - v} dollars."], base - v)
    if kind == 8:
        x = r.randint(1, 20)
        return done(f"Solve for $x$: ${d}x + {b} = {d * x + b}$.", [f"We have ${d}x + {b} = {d * x + b}$.", f"Subtract {b} from both sides: ${d}x = {d * x}$.", f"Divide both sides by {d}: $x = {x}$."], x, True)
    if kind == 9:
        p, q = r.randint(1, 9), r.randint(1, 9)
        return done(f"Solve the equation $x^2 - {p + q}x + {p * q} = 0$.", [f"We factor the quadratic: $x^2 - {p + q}x + {p * q} = (x - {p})(x - {q})$.", f"So $x = {p}$ or $x = {q}$."], f"{min(p, q)}, {max(p, q)}", True)
    if kind == 10:
        return done(f"What is the area of a rectangle with length {a} and width {c}?", ["The area of a rectangle is length times width.", f"${a} \\times {c} = {a * c}$."], a * c, True)
    if kind == 11:
        return done(f"What is the perimeter of a rectangle with length {a} and width {c}?", ["The perimeter of a rectangle is $2(l + w)$.", f"$2({a} + {c}) = 2 \\times {a + c} = {2 * (a + c)}$."], 2 * (a + c), True)
    if kind == 12:
        g = math.gcd(a * d, b * d)
        steps, x, y = [], a * d, b * d
        while y:
            steps.append(f"{x} = {x // y} * {y} + {x % y}")
            x, y = y, x % y
        return done(f"Find the greatest common divisor of {a * d} and {b * d}.", ["We use the Euclidean algorithm."] + steps + [f"So the greatest common divisor is {g}."], g, True)
    if kind == 13:
        return done(f"Compute {a} * {b} + {c}.", [f"First multiply: {a} * {b} = {a * b}.", f"Then add: {a * b} + {c} = {a * b + c}."], a * b + c)
    if kind == 14:
        f = math.gcd(c * b + a * d, d * b)
        return done(f"Compute $\\frac{{{c}}}{{{d}}} + \\frac{{{a}}}{{{b}}}$.", [f"The common denominator is ${d} \\times {b} = {d * b}$.", f"$\\frac{{{c}}}{{{d}}} + \\frac{{{a}}}{{{b}}} = \\frac{{{c * b} + {a * d}}}{{{d * b}}} = \\frac{{{c * b + a * d}}}{{{d * b}}}$."], f"\\frac{{{(c * b + a * d) // f}}}{{{d * b // f}}}", True)
    if kind == 15:
        k = r.randint(5, 12)
        return done(f"An arithmetic sequence starts at {a} and increases by {d}. What is the term number {k}?", [f"The term number $n$ is $a + (n - 1)d$.", f"${a} + ({k} - 1) \\times {d} = {a} + {(k - 1) * d} = {a + (k - 1) * d}$."], a + (k - 1) * d, True)
    if kind == 16:
        w = r.randint(3, 8)
        return done(f"{n} reads {c} pages every day. How many pages does {n} read in {w} weeks?", ["There are 7 days in a week.", f"{w} weeks are {w} * 7 = {w * 7} days.", f"{n} reads {w * 7} * {c} = {w * 7 * c} pages."], w * 7 * c)
    return done(f"{n} has {a} {many}. {m} has {c} times as many. How many {many} do they have together?", [f"{n} has {a} {many}.", f"{m} has {c} * {a} = {c * a} {many}.", f"Together they have {a} + {c * a} = {a + c * a} {many}."], a + c * a)


# ---------------------------------------------------------------- agent

def _date(r):
    return f"2026-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"


def _time(r):
    return f"{r.randint(8, 19):02d}:{r.choice(['00', '15', '30', '45'])}"


def _email(r):
    return f"{r.choice(NAMES).lower()}@example.com"


def _id(r):
    return f"{r.choice('ABCDKMRTX')}{r.randint(1000, 99999)}"


S = lambda d: {"type": "string", "description": d}
I = lambda d: {"type": "integer", "description": d}
# name, description, parameters, how a user asks, what the tool answers, how the assistant reports it
TOOLS = [
    ("get_weather", "Get the current weather for a city.", {"city": S("Name of the city")}, lambda r: {"city": r.choice(CITIES)}, ["What is the weather in {city}?", "How is the weather in {city} right now?", "Do I need an umbrella in {city} today?"], lambda r, a: {"city": a["city"], "temperature": r.randint(-5, 35), "condition": r.choice(["sunny", "cloudy", "rain", "snow", "windy"])}, "The weather in {city} is {condition} with a temperature of {temperature} degrees."),
    ("get_forecast", "Get the weather forecast for a city on a date.", {"city": S("Name of the city"), "date": S("Date as YYYY-MM-DD")}, lambda r: {"city": r.choice(CITIES), "date": _date(r)}, ["What will the weather be in {city} on {date}?", "Give me the forecast for {city} on {date}."], lambda r, a: {**a, "high": r.randint(10, 35), "low": r.randint(-5, 9), "condition": r.choice(["sunny", "cloudy", "rain"])}, "On {date} it will be {condition} in {city}, with a high of {high} and a low of {low} degrees."),
    ("search_flights", "Search for flights between two cities on a date.", {"origin": S("City of departure"), "destination": S("City of arrival"), "date": S("Date as YYYY-MM-DD")}, lambda r: dict(zip(("origin", "destination"), r.sample(CITIES, 2))) | {"date": _date(r)}, ["Find flights from {origin} to {destination} on {date}.", "I want to fly from {origin} to {destination} on {date}. What is available?"], lambda r, a: {"flights": [{"flight": _id(r), "departure": _time(r), "price": r.randint(80, 900)} for _ in range(2)]}, None),
    ("book_flight", "Book a flight for a passenger.", {"flight": S("Flight number"), "passenger": S("Name of the passenger")}, lambda r: {"flight": _id(r), "passenger": r.choice(NAMES)}, ["Book flight {flight} for {passenger}.", "Please book {flight} for {passenger}."], lambda r, a: {"status": "booked", "confirmation": _id(r), **a}, "Flight {flight} is booked for {passenger}. The confirmation number is {confirmation}."),
    ("send_email", "Send an email.", {"to": S("Address of the recipient"), "subject": S("Subject line"), "body": S("Text of the message")}, lambda r: {"to": _email(r), "subject": r.choice(["Meeting tomorrow", "Project update", "Invoice", "Lunch", "Schedule change"]), "body": r.choice(["The meeting is moved to 10:00.", "Please find the report attached.", "Thank you for your help.", "I will be late today."])}, ["Send an email to {to} with the subject \"{subject}\" and the text \"{body}\".", "Email {to}: subject \"{subject}\", body \"{body}\"."], lambda r, a: {"status": "sent", "to": a["to"]}, "The email to {to} was sent."),
    ("create_event", "Create a calendar event.", {"title": S("Title of the event"), "date": S("Date as YYYY-MM-DD"), "time": S("Start time as HH:MM"), "duration_minutes": I("Length in minutes")}, lambda r: {"title": r.choice(["Team meeting", "Dentist", "Lunch with " + r.choice(NAMES), "Code review", "Gym"]), "date": _date(r), "time": _time(r), "duration_minutes": r.choice([15, 30, 45, 60, 90])}, ["Put \"{title}\" in my calendar on {date} at {time} for {duration_minutes} minutes.", "Schedule {title} on {date} at {time}, {duration_minutes} minutes long."], lambda r, a: {"status": "created", "event_id": _id(r), **a}, "The event \"{title}\" is in your calendar on {date} at {time} for {duration_minutes} minutes."),
    ("list_events", "List the calendar events on a date.", {"date": S("Date as YYYY-MM-DD")}, lambda r: {"date": _date(r)}, ["What is on my calendar on {date}?", "Show my events for {date}."], lambda r, a: {"date": a["date"], "events": [{"title": r.choice(["Team meeting", "Dentist", "Code review", "Gym"]), "time": _time(r)} for _ in range(2)]}, None),
    ("get_stock_price", "Get the current price of a stock.", {"symbol": S("Ticker symbol")}, lambda r: {"symbol": r.choice("AAPL MSFT NVDA TSLA AMZN GOOG IBM ORCL".split())}, ["What is the price of {symbol}?", "How much is {symbol} stock right now?"], lambda r, a: {"symbol": a["symbol"], "price": r.randint(20, 900), "currency": "USD"}, "The current price of {symbol} is {price} {currency}."),
    ("convert_currency", "Convert an amount from one currency to another.", {"amount": I("Amount to convert"), "source": S("Currency code to convert from"), "target": S("Currency code to convert to")}, lambda r: {"amount": r.randint(1, 50) * 10, **dict(zip(("source", "target"), r.sample("USD EUR GBP JPY CHF INR".split(), 2)))}, ["Convert {amount} {source} to {target}.", "How much is {amount} {source} in {target}?"], lambda r, a: {**a, "result": round(a["amount"] * r.choice([0.8, 0.9, 1.1, 1.25]), 2)}, "{amount} {source} is {result} {target}."),
    ("get_order_status", "Look up the status of an order.", {"order_id": S("Identifier of the order")}, lambda r: {"order_id": _id(r)}, ["Where is my order {order_id}?", "What is the status of order {order_id}?"], lambda r, a: {**a, "status": r.choice(["shipped", "processing", "delivered"]), "delivery_date": _date(r)}, "Order {order_id} is {status}. The delivery date is {delivery_date}."),
    ("cancel_order", "Cancel an order.", {"order_id": S("Identifier of the order"), "reason": S("Why the order is cancelled")}, lambda r: {"order_id": _id(r), "reason": r.choice(["ordered by mistake", "found a better price", "no longer needed"])}, ["Cancel order {order_id}, it was {reason}.", "Please cancel my order {order_id}. Reason: {reason}."], lambda r, a: {"order_id": a["order_id"], "status": "cancelled", "refund": r.randint(5, 300)}, "Order {order_id} is cancelled and {refund} dollars will be refunded."),
    ("search_products", "Search the product catalogue.", {"query": S("What to search for"), "max_price": I("Highest price")}, lambda r: {"query": r.choice(["running shoes", "laptop", "desk lamp", "headphones", "coffee maker", "backpack"]), "max_price": r.choice([25, 50, 100, 200, 500])}, ["Find {query} under {max_price} dollars.", "Search for {query} that cost at most {max_price} dollars."], lambda r, a: {"products": [{"id": _id(r), "name": a["query"], "price": r.randint(5, a["max_price"])} for _ in range(2)]}, None),
    ("add_to_cart", "Add a product to the shopping cart.", {"product_id": S("Identifier of the product"), "quantity": I("How many")}, lambda r: {"product_id": _id(r), "quantity": r.randint(1, 5)}, ["Add {quantity} of product {product_id} to my cart.", "Put {quantity} pieces of {product_id} into the cart."], lambda r, a: {**a, "status": "added", "cart_total": r.randint(20, 400)}, "{quantity} of product {product_id} were added to your cart. The total is {cart_total} dollars."),
    ("read_file", "Read a text file.", {"path": S("Path of the file")}, lambda r: {"path": r.choice(["src/main.py", "README.md", "config.json", "notes.txt", "tests/test_app.py"])}, ["Show me the file {path}.", "Read {path}."], lambda r, a: {"path": a["path"], "content": r.choice(["print('hello')", "version = 1", "debug: true"])}, "The file {path} contains: {content}"),
    ("write_file", "Write text to a file.", {"path": S("Path of the file"), "content": S("Text to write")}, lambda r: {"path": r.choice(["notes.txt", "todo.md", "out/log.txt"]), "content": r.choice(["Buy milk", "Call " + r.choice(NAMES), "Fix the build"])}, ["Write \"{content}\" to {path}.", "Save the text \"{content}\" in {path}."], lambda r, a: {"path": a["path"], "bytes": len(a["content"])}, "I wrote {bytes} bytes to {path}."),
    ("run_tests", "Run the tests of a project.", {"path": S("Folder with the tests")}, lambda r: {"path": r.choice(["tests", "tests/unit", "test/api"])}, ["Run the tests in {path}.", "Please run all tests under {path} and tell me the result."], lambda r, a: {"path": a["path"], "passed": r.randint(5, 90), "failed": r.randint(0, 3)}, "The tests in {path} finished: {passed} passed and {failed} failed."),
    ("query_database", "Run a SQL query.", {"sql": S("The query")}, lambda r: {"sql": f"SELECT {r.choice(['name', 'count(*)', 'id'])} FROM {r.choice(['users', 'orders', 'items'])} WHERE {r.choice(['age', 'price', 'total'])} > {r.randint(1, 90)}"}, ["Run this query: {sql}", "Execute {sql}"], lambda r, a: {"rows": [[r.randint(1, 99)], [r.randint(1, 99)]]}, None),
    ("get_directions", "Get directions between two places.", {"origin": S("Where to start"), "destination": S("Where to go"), "mode": S("walking, driving or transit")}, lambda r: dict(zip(("origin", "destination"), r.sample(CITIES, 2))) | {"mode": r.choice(["walking", "driving", "transit"])}, ["How do I get from {origin} to {destination} by {mode}?", "Give me {mode} directions from {origin} to {destination}."], lambda r, a: {**a, "distance_km": r.randint(5, 900), "minutes": r.randint(10, 600)}, "From {origin} to {destination} by {mode} it is {distance_km} kilometers and takes about {minutes} minutes."),
    ("set_reminder", "Set a reminder.", {"text": S("What to remember"), "date": S("Date as YYYY-MM-DD"), "time": S("Time as HH:MM")}, lambda r: {"text": r.choice(["call the bank", "water the plants", "pay the rent", "send the report"]), "date": _date(r), "time": _time(r)}, ["Remind me to {text} on {date} at {time}.", "Set a reminder to {text} for {date} at {time}."], lambda r, a: {"status": "set", **a}, "I will remind you to {text} on {date} at {time}."),
    ("book_table", "Book a table at a restaurant.", {"restaurant": S("Name of the restaurant"), "people": I("Number of people"), "date": S("Date as YYYY-MM-DD"), "time": S("Time as HH:MM")}, lambda r: {"restaurant": r.choice(["Blue Door", "Casa Luna", "Green Garden", "Noodle House"]), "people": r.randint(2, 8), "date": _date(r), "time": _time(r)}, ["Book a table for {people} at {restaurant} on {date} at {time}.", "Reserve a table at {restaurant} for {people} people on {date} at {time}."], lambda r, a: {"status": "confirmed", "reservation": _id(r), **a}, "Your table for {people} at {restaurant} on {date} at {time} is confirmed. The reservation number is {reservation}."),
    ("get_user", "Look up a user account.", {"user_id": S("Identifier of the user")}, lambda r: {"user_id": _id(r)}, ["Look up the user {user_id}.", "Show me the account of user {user_id}."], lambda r, a: {**a, "name": r.choice(NAMES), "email": _email(r), "active": r.choice([True, False])}, "User {user_id} is {name} with the email address {email}."),
    ("translate", "Translate a text.", {"text": S("Text to translate"), "target_language": S("Language to translate to")}, lambda r: {"text": r.choice(["good morning", "thank you", "where is the station", "see you tomorrow"]), "target_language": r.choice(["German", "French", "Spanish", "Italian"])}, ["Translate \"{text}\" into {target_language}.", "How do you say \"{text}\" in {target_language}?"], lambda r, a: {"translation": a["text"], "language": a["target_language"]}, None),
    ("calculate", "Evaluate an arithmetic expression.", {"expression": S("The expression")}, lambda r: {"expression": f"{r.randint(2, 99)} * {r.randint(2, 99)} + {r.randint(1, 99)}"}, ["Calculate {expression}.", "What is {expression}?"], lambda r, a: {"expression": a["expression"], "result": eval(a["expression"])}, "{expression} is {result}."),
    ("turn_on_device", "Turn a smart home device on or off.", {"device": S("Name of the device"), "state": S("on or off")}, lambda r: {"device": r.choice(["kitchen light", "heater", "fan", "bedroom lamp", "coffee machine"]), "state": r.choice(["on", "off"])}, ["Turn {state} the {device}.", "Please turn the {device} {state}."], lambda r, a: {**a, "status": "ok"}, "The {device} is now {state}."),
]


def _schema(tool):
    return {"name": tool[0], "description": tool[1], "parameters": {"type": "object", "properties": tool[2], "required": list(tool[2])}}


def _list_report(result):
    rows = next((v for v in result.values() if isinstance(v, list)), None)
    if rows is None:
        return "Here is the result: " + ", ".join(f"{k} {v}" for k, v in result.items()) + "."
    shown = [", ".join(f"{k} {v}" for k, v in row.items()) if isinstance(row, dict) else ", ".join(map(str, row)) for row in rows]
    return "Here is what I found:\n" + "\n".join(f"- {s}" for s in shown)


VERBS = "get find create update delete list send start stop check reserve order cancel open close lock rename move export import assign schedule rate pay print scan track".split()
NOUNS = "invoice ticket room printer parcel document report device playlist recipe task project contact sensor camera door window account payment shipment course lesson patient vehicle meeting team server backup image song article pet garden route bus".split()
FIELDS = [("id", "Identifier of the {n}", _id), ("name", "Name of the {n}", lambda r: r.choice(NAMES)), ("city", "City of the {n}", lambda r: r.choice(CITIES)),
          ("date", "Date as YYYY-MM-DD", _date), ("time", "Time as HH:MM", _time), ("count", "How many", lambda r: r.randint(1, 40)), ("amount", "Amount in dollars", lambda r: r.randint(5, 900)),
          ("email", "Email address", _email), ("color", "Color of the {n}", lambda r: r.choice("red blue green black white yellow".split())), ("priority", "low, medium or high", lambda r: r.choice(["low", "medium", "high"])),
          ("level", "Level from 0 to 100", lambda r: r.randint(0, 100)), ("note", "Free text", lambda r: " ".join(_words(r, 3))), ("folder", "Folder", lambda r: "/".join(_words(r, 2))), ("query", "What to look for", lambda r: " ".join(_words(r, 2)))]


def invented_tool(r):
    """A tool from random parts: names and arguments can only be right by reading the definition and the request."""
    verb, noun = r.choice(VERBS), r.choice(NOUNS)
    parts = r.sample(FIELDS, r.randint(1, 4))
    key = lambda f: f"{noun}_{f[0]}" if f[0] in ("id", "name") and r.random() < 0.6 else f[0]
    fields = [(key(f), f[1].format(n=noun), f[2]) for f in parts]
    types = {k: (I if isinstance(make(r), int) else S)(d) for k, d, make in fields}
    say = [f"{k.replace('_', ' ')} {{{k}}}" for k, _, _ in fields]
    listing = ", ".join(say[:-1]) + (" and " if len(say) > 1 else "") + say[-1]
    asks = [f"Please {verb} the {noun} with {listing}.", f"{verb.capitalize()} a {noun}: {listing}.", f"Can you {verb} the {noun}? The {listing}.", f"I need you to {verb} the {noun} with {listing}, thanks."]
    status = r.choice(["ok", "done", "confirmed", "pending", "created"])
    joined = r.choice(["_", "_", "."])
    describe = r.choice([f"{verb.capitalize()} a {noun}.", f"{verb.capitalize()} the {noun} of a user.", f"Use this to {verb} a {noun}."])
    return (f"{verb}{joined}{noun}", describe, types, lambda r: {k: make(r) for k, _, make in fields}, asks,
            lambda r, a: {"status": status, **a, "reference": _id(r)}, f"The {noun} with {listing} is {{status}}. The reference is {{reference}}.")


def agent(r):
    """Returns (messages, tools)."""
    n = r.choice([1, 2, 2, 3, 3, 4])
    chosen = [invented_tool(r) for _ in range(n)] if r.random() < 0.6 else r.sample(TOOLS, n)
    schemas = [_schema(t) for t in chosen]
    messages = []
    if r.random() < 0.5:
        messages.append({"role": "system", "content": r.choice(["You are a helpful assistant.", "You are a customer service agent. Use the tools to help the user.", "You are an assistant with access to tools. Call a tool when it helps.", "You are a careful agent. Use the tools you are given and do not guess."])})
    for turn in range(r.choice([1, 1, 2, 2, 3])):
        tool = r.choice(chosen)
        arguments = tool[3](r)
        ask = r.choice(tool[4]).format(**arguments)
        if r.random() < 0.12 and tool[2]:
            missing = r.choice(list(tool[2]))
            messages.append({"role": "user", "content": f"Please use {tool[0].replace('_', ' ')} for me."})
            messages.append({"role": "assistant", "content": f"I can do that. Please tell me the {missing.replace('_', ' ')}: {tool[2][missing]['description'].lower()}."})
        if r.random() < 0.15:
            second = tool[3](r)
            ask2 = r.choice(tool[4]).format(**second)
            messages.append({"role": "user", "content": ask + " Also: " + ask2})
            calls, results = [arguments, second], [tool[5](r, arguments), tool[5](r, second)]
        else:
            messages.append({"role": "user", "content": ask})
            calls, results = [arguments], [tool[5](r, arguments)]
        messages.append({"role": "assistant", "content": "", "tool_calls": [{"name": tool[0], "arguments": a} for a in calls]})
        for result in results:
            messages.append({"role": "tool", "content": json.dumps(result)})
        reports = [tool[6].format(**{**a, **res}) if tool[6] else _list_report(res) for a, res in zip(calls, results)]
        messages.append({"role": "assistant", "content": " ".join(reports) if tool[6] else "\n".join(reports)})
        if r.random() < 0.3:
            messages.append({"role": "user", "content": r.choice(["Thank you!", "Thanks.", "Great, thanks."])})
            messages.append({"role": "assistant", "content": r.choice(["You're welcome! Is there anything else I can help you with?", "You're welcome!"])})
    return messages, schemas


# ---------------------------------------------------------------- chat

TOPICS = ["learning a new language", "saving money", "sleeping better", "public speaking", "time management", "cooking at home", "running a first marathon", "job interviews",
          "studying for exams", "growing tomatoes", "making new friends", "writing a good essay", "staying motivated", "working from home", "packing for a trip", "healthy eating",
          "reducing stress", "learning to code", "buying a used car", "planning a birthday party", "taking better photos", "organizing a small kitchen"]
TIPS = [("Start small", "Choose one small step and repeat it every day until it becomes a habit."), ("Set a clear goal", "Write down what you want to achieve and by when."),
        ("Make a plan", "Break the goal into steps and put each step in your calendar."), ("Practice regularly", "Short regular sessions work better than one long session."),
        ("Track your progress", "Keep a simple record so that you can see how far you have come."), ("Ask for help", "Talk to someone who has done it before and learn from their mistakes."),
        ("Take breaks", "Rest is part of the work and keeps you focused."), ("Remove distractions", "Put away your phone and find a quiet place."),
        ("Be patient", "Results take time, so do not give up after the first setback."), ("Review and adjust", "Look at what works and change what does not.")]


def chat(r):
    topic, (n, m) = r.choice(TOPICS), r.sample(NAMES, 2)
    kind = r.random()
    if kind < 0.55:
        k = r.randint(3, 6)
        tips = r.sample(TIPS, k)
        ask = r.choice(["Give me {k} tips for {t}.", "What are {k} good tips for {t}?", "How can I get better at {t}? Give me {k} ideas."]).format(k=k, t=topic)
        body = "\n".join(f"{i + 1}. **{a}**: {b}" for i, (a, b) in enumerate(tips))
        return [("user", ask), ("assistant", f"Here are {k} tips for {topic}:\n\n{body}\n\nGood luck with {topic}!")]
    if kind < 0.8:
        what = r.choice(["a meeting", "a project update", "a day off", "a late delivery", "an invitation to dinner", "a job application"])
        day = r.choice("Monday Tuesday Wednesday Thursday Friday".split())
        return [("user", f"Write a short email to {n} about {what} on {day}."), ("assistant", f"Subject: About {what} on {day}\n\nDear {n},\n\nI hope you are doing well. I am writing to you about {what} on {day}. Please let me know if this works for you or if you have any questions.\n\nThank you for your time.\n\nBest regards,\n{m}")]
    return [("user", r.choice(["Explain {t} in simple words.", "Why is {t} important?", "Tell me something about {t}."]).format(t=topic)), ("assistant", f"There are many good reasons to think about {topic}. First, it helps you to feel better and to reach your goals. Second, it is a skill that you can learn step by step. {r.choice(TIPS)[1]} {r.choice(TIPS)[1]} In short, {topic} becomes easier with practice.")]


def generate(seed, counts):
    """Rows in the form of corpus.py; `counts` maps scenario to number of conversations."""
    rows = []
    makers = {"coding": coding, "math": maths, "agent": agent, "chat": chat}
    for scenario, count in counts.items():
        r = random.Random(f"{seed}:{scenario}")
        for _ in range(count):
            if scenario == "agent":
                messages, tools = agent(r)
                rows.append({"scenario": scenario, "source": "generated", "messages": messages, "tools": tools, "validation": False})
            else:
                turns = makers[scenario](r)
                rows.append({"scenario": scenario, "source": "generated", "messages": [{"role": a, "content": b} for a, b in turns], "validation": False})
    return rows


if __name__ == "__main__":
    from chat import render

    for row in generate(1, {"coding": 4, "math": 4, "agent": 3, "chat": 2}):
        print("".join(t for t, _ in render(row["messages"], row.get("tools"))))
